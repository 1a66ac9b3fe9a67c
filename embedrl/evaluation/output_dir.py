"""The output folder of an evaluation: what it holds, and the provenance of its results.

```
<out>/config.yaml          the configuration: `embedrl eval --config <out>/config.yaml` repeats it
      provenance.json      of every start: code, packages, device, hashes, wall time
      scores.json          the figures in the form of the leaderboard
      report.json          the figures with everything that `embedrl compare` needs
      queries/*.parquet    the best candidates of every query of a data set
      vectors/ tcots.jsonl caches: vectors and T-CoTs that are not computed again
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from embedrl.distributed.collectives import world_size
from embedrl.errors import ConfigError, unreadable
from embedrl.evaluation.report import QUERIES, REPORT
from embedrl.evaluation.vectors import VectorCache
from embedrl.utils.atomic_files import replacing
from embedrl.utils.versions import environment, read_starts

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
_LEAVES_FIGURES_ALONE = {
    *("out", "beside", "encode", "device", "submission", "keep", "metrics", "on_bad", "max_bad"),
    *("vectors", "dim", "rescore"),
}


def prepare_output_dir(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder; refuse one that holds anything but this evaluation, or another without results yet.

    Raises:
        ConfigError: If it does.
        DataError: If one of its files is broken.
    """
    path = out / CONFIG
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: a file; give a folder")
    before = _read_config(path)
    ours = "benchmark" in before  # a training run has a config.yaml, too
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise ConfigError(f"--out {out}: not empty, and holds no evaluation; give a new folder")
    if ours and (out / QUERIES).is_dir():
        for name, value in settings.items():
            if name not in _LEAVES_FIGURES_ALONE and before.get(name) != value:
                raise ConfigError(
                    f"--out {out}: holds an evaluation with another {name} ({_short(before.get(name))}, now "
                    f"{_short(value)}); give a new folder (--encode.cache may stay the same)"
                )
    out.mkdir(parents=True, exist_ok=True)
    read_starts(out / PROVENANCE)  # broken: told now, not after hours
    with replacing(path) as part:
        part.write_text(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def check_same_model(out: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to mix the results of two models in one folder.

    Raises:
        ConfigError: If a finished evaluation in the folder was another model's.
        DataError: If its report is broken.
    """
    path = out / REPORT
    if not path.is_file():
        return
    with unreadable(f"{path}: broken", "delete it, and it is written again"):
        before = json.loads(path.read_text(encoding="utf-8"))["model"]["model"]["weights"]
    if before != identity["model"]["weights"]:
        raise ConfigError(f"--out {out}: holds an evaluation of other weights; give a new folder")


def write_provenance(
    out: Path,
    settings: Mapping[str, Any],
    vectors: VectorCache,
    device: torch.device,
    computed: int,
    seconds: float,
) -> None:
    """Add this start to `provenance.json`."""
    path = out / PROVENANCE
    starts = read_starts(path)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    start = {
        **environment(),
        "seed": settings["seed"],
        "device": name,
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "model": vectors.identity,
        "vectors": str(vectors.folder),
        "sides_embedded": computed,
        "wall_seconds": round(seconds, 1),
        "config": dict(settings),
    }
    with replacing(path) as part:
        part.write_text(json.dumps({"starts": [*starts, start]}, indent=1))


def _read_config(path: Path) -> dict[str, Any]:
    """What a `config.yaml` holds; nothing if there is none."""
    with unreadable(f"{path}: broken", "give a new folder"):
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return content if isinstance(content, dict) else {}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
