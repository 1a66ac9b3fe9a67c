"""Training an Embedder from a program: `embedrl fit` on a configuration that is made of what the program gives."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from embedrl.api.given_pairs import read_pairs, write_pairs
from embedrl.data.mix import MixRow
from embedrl.errors import ConfigError, DataError
from embedrl.models.backbone import Backbone
from embedrl.models.lora import LoRAOptions
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.open_clip.towers import ClipLoRA
from embedrl.training.checkpoints import config_form
from embedrl.training.exporting import write_export

if TYPE_CHECKING:
    from embedrl.api.embedder import Embedder

_LARGE = 100_000_000
"""Parameters from which `lora="auto"` trains adapters."""

Lora = LoRAOptions | ClipLoRA | Literal["auto"] | None


def fit(
    embedder: Embedder,
    pairs: Any,
    out: Path,
    steps: int,
    validation: Any,
    batch_size: int,
    learning_rate: float,
    lora: Lora,
    seed: int,
    options: Mapping[str, Any],
) -> Path:
    """Train; see `Embedder.fit`.

    Returns:
        The run's folder.
    """
    if steps < 1 or batch_size < 1:
        raise ConfigError(f"steps {steps}, batch_size {batch_size}: give 1 or more")
    out.mkdir(parents=True, exist_ok=True)
    config = configuration(embedder, out.absolute(), steps, batch_size, learning_rate, lora, seed)
    data = config["data"]["init_args"]
    data["mix"], tasks = _mix(pairs, out.absolute(), embedder.num_frames)
    if validation is not None:
        tasks = _tasks(validation, out.absolute(), embedder.num_frames)
    if tasks:
        data["val"] = tasks
        config["trainer"] |= {"val_check_interval": max(1, steps // 5)}
    from embedrl.commands.fit import TrainingCLI, start

    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
        file.flush()
        flags = [word for key, value in options.items() for word in (f"--{key}", _flag(value))]
        ran = start(["fit", "--config", file.name, *flags], TrainingCLI)
    return Path(ran.trainer.log_dir or out)


def configuration(
    embedder: Embedder, out: Path, steps: int, batch_size: int, learning_rate: float, lora: Lora, seed: int
) -> dict[str, Any]:
    """The configuration of a training, without its data.

    Args:
        embedder: The Embedder to train.
        out: Folder of the runs.
        steps: Optimizer steps.
        batch_size: Pairs in a batch.
        learning_rate: The highest one.
        lora: See `Embedder.fit`.
        seed: Seed of the run.
    """
    on_gpu = embedder.device.type == "cuda"
    return {
        "seed_everything": seed,
        "trainer": {
            "accelerator": "gpu" if on_gpu else "cpu",
            "devices": [embedder.device.index or 0] if on_gpu else 1,
            "precision": "bf16-mixed" if on_gpu else "32-true",
            "max_steps": steps,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": max(1, min(10, steps // 10)),
            "gradient_clip_val": 1.0,
            "default_root_dir": str(out),
        },
        "model": {
            "class_path": "embedrl.EmbedderModule",
            "init_args": {
                "backbone": _backbone(embedder, out, lora),
                "loss": {"class_path": "embedrl.losses.InfoNCE", "init_args": {"temperature": 0.05}},
                "optimizer": {
                    "class_path": "torch.optim.AdamW",
                    "init_args": {"lr": learning_rate, "weight_decay": 0.01},
                },
                "schedule": "cosine",
                "warmup_steps": min(10, steps // 10),
            },
        },
        "data": {
            "class_path": "embedrl.EmbedderDataModule",
            "init_args": {
                "batch_size": batch_size,
                "sub_batch_size": batch_size,
                "micro_batch_size": min(embedder.micro_batch_size, 2 * batch_size),
                "render": config_form(embedder.render),
            },
        },
    }


def _backbone(embedder: Embedder, out: Path, lora: Lora) -> dict[str, Any]:
    """The Embedder's model as a run is to load it: from where it came, or from a copy of it below `out`."""
    backbone: Backbone = embedder.backbone
    form: dict[str, Any] = config_form(backbone)
    arguments = form["init_args"]
    place = "model" if isinstance(backbone, OpenClipBackbone) else "path"
    if place not in arguments:
        raise ConfigError(f"fit: {form['class_path']} names no `path` to load from: train it with `embedrl fit`")
    if not embedder.reloads:
        base = out / f"base_{embedder.fingerprint[:12]}"
        if not base.is_dir():
            write_export(backbone, base)
        arguments[place] = f"local-dir:{base}" if place == "model" else str(base)
        arguments |= {"pretrained": None, "vision_weights": None} if place == "model" else {}
    elif Path(arguments[place]).expanduser().is_dir():
        arguments[place] = os.path.abspath(Path(arguments[place]).expanduser())  # noqa: PTH100  # keeps links
    if lora == "auto":
        size = sum(parameter.numel() for parameter in backbone.parameters())
        lora = None if size < _LARGE or place == "model" or "lora" not in arguments else LoRAOptions()
    arguments["lora"] = config_form(lora)
    if place == "model":
        arguments["trainable"] = "full" if lora is None else "lora"
    if "dtype" in arguments:
        arguments["dtype"] = "float32"  # master weights
    return form


def _mix(pairs: Any, out: Path, num_frames: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The mix to train on, and the tasks that a mix folder brings."""
    if isinstance(pairs, str | Path):
        folder = Path(pairs).expanduser()
        file = folder / "mix.yaml" if folder.is_dir() else folder
        mix, tasks = _read_yaml(file), folder / "validation.yaml"
        return mix, _read_yaml(tasks) if tasks.is_file() else []
    if isinstance(pairs, MixRow):
        pairs = [pairs]
    given = list(pairs)
    if given and all(isinstance(row, MixRow) for row in given):
        return config_form(given), []
    return write_pairs(read_pairs(given, num_frames), "pairs", out), []


def _tasks(validation: Any, out: Path, num_frames: int) -> list[dict[str, Any]]:
    """Where the validation tasks come from."""
    if hasattr(validation, "tasks"):
        return [config_form(validation)]
    given = list(validation)
    if given and all(hasattr(source, "tasks") for source in given):
        return [config_form(source) for source in given]
    (row,) = write_pairs(read_pairs(given, num_frames), "validation", out)
    return [{"class_path": "embedrl.data.PairTasks", "init_args": {"source": row["source"]}}]


def _read_yaml(file: Path) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read ({error}): give pairs, or a folder with a mix.yaml") from error
    if not isinstance(content, list):
        raise DataError(f"{file}: no list of data sets: give what `embedrl data` or `embedrl annotate` wrote")
    return content


def _flag(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(config_form(value))
