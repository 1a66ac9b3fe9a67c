"""`embedrl merge`: one model from several, with weights that are given or searched on validation tasks."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from embedrl.data.render import RenderOptions
from embedrl.data.sources import TaskSource
from embedrl.errors import ConfigError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.backbone import Backbone
from embedrl.models.merging import Method, check_method, merge_folders
from embedrl.utils.atomic_files import replacing_folder
from embedrl.utils.console import tell


def merge(
    models: list[Path],
    out: Path,
    weights: list[float] | None = None,
    method: Method = "linear",
    base: Path | None = None,
    density: float = 0.2,
    grid: int = 0,
    backbone: Backbone | None = None,
    tasks: list[TaskSource] | None = None,
    render: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
) -> None:
    """Merge exported models of one architecture: the first one's folder, its weights those of all.

    LoRA adapters of one base make an adapter (by peft), whole models a whole model.

    With `--grid`, the weights of two models are searched: each is scored on the tasks by hit@1, the best is written,
    and `merge.json` holds all figures.

    Args:
        models: The folders, two or more: `--models [a, b]`.
        out: The folder to write; must be new or empty. It is there when it is whole.
        weights: Weight of each model; null: all alike.
        method: `linear`: the weighted sum. `slerp`: two models, on the sphere. `ties`: what each changed of `base`,
            trimmed to its largest values, without conflicting signs. `svd`: adapters, the sum of their updates cut
            down to their rank, where `linear` merges their factors.
        base: The model that all were trained from, for `ties` of whole models.
        density: `ties`: share of the largest changes that are kept.
        grid: Number of weights of the second model to try, from 0 to 1; 0 takes `weights`.
        backbone: How the models are read for the search; its `path` is replaced.
        tasks: Validation tasks of the search.
        render: What the Embedder reads of a side in the search.

    Raises:
        CheckpointError: If a folder is no model, or two do not fit together.
        ConfigError: If flags do not fit, or `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: already there; give a new folder")
    given = [1 / len(models)] * len(models) if weights is None and models else list(weights or [])
    check_method(models, given, method, base, density)
    report: dict[str, Any] = {"models": [str(path) for path in models], "method": method}
    if grid:
        if weights is not None or len(models) != 2 or grid < 2:
            raise ConfigError("--grid searches the weights of two models, 2 or more of them: give no --weights")
        if backbone is None or not tasks:
            raise ConfigError("--grid scores on tasks: give --backbone and --tasks")
        given, report["grid"] = _search(models, method, base, density, grid, backbone, tasks, render)
    with replacing_folder(out) as part:
        merge_folders(models, given, part, method, base, density)
        (part / "merge.json").write_text(json.dumps({**report, "weights": given}, indent=1) + "\n", encoding="utf-8")
    tell(f"wrote {out}: {', '.join(f'{weight:.3g} x {path}' for weight, path in zip(given, models, strict=True))}")


def _search(
    models: Sequence[Path],
    method: Method,
    base: Path | None,
    density: float,
    grid: int,
    backbone: Backbone,
    tasks: Sequence[TaskSource],
    render: RenderOptions,
) -> tuple[list[float], list[dict[str, float]]]:
    """The weights with the best mean hit@1, and the figures of all; of equal ones the nearest to the first model."""
    options = {name: getattr(backbone, name) for name in inspect.signature(type(backbone)).parameters}
    if "path" not in options:
        raise ConfigError(f"--backbone {type(backbone).__name__} reads no folder: give one with a `path`")
    everything = [task for source in tasks for task in source.tasks()]
    figures = []
    for step in range(grid):
        share = step / (grid - 1)
        with tempfile.TemporaryDirectory() as place:
            merge_folders(models, [1 - share, share], Path(place), method, base, density)
            embedder = FrozenEmbedder(type(backbone)(**{**options, "path": place}), render)
            results = embedder.score(everything, torch.device("cpu"))
        hit = sum(result.metrics["hit@1"] for result in results) / len(results)
        figures.append({"weight": share, "hit@1": hit})
        tell(f"{share:.3g} of {models[1]}: hit@1 {hit:.3f}")
    best = max(figures, key=lambda one: one["hit@1"])
    return [1 - best["weight"], best["weight"]], figures
