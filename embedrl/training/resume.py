"""What a resumed run may change: the rest must be as in the checkpoint, or `--accept_changes` must say so."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from embedrl.distributed.sharded_checkpoint import is_sharded, read_rest, reading
from embedrl.errors import ConfigError, listed

FREE = (
    "data.init_args.num_workers", "data.init_args.persistent_workers", "data.init_args.micro_batch_size",
    "data.init_args.val*", "data.init_args.test*", "data.init_args.generate_batch_size",
    "data.init_args.encode_batch_size", "model.init_args.max_new_tokens", "model.init_args.metrics*",
    "model.init_args.gradient_cache", "model.init_args.policy.*", "model.init_args.engine*",
    "model.init_args.rollout.max_sequences", "*.gradient_checkpointing", "*.attn_implementation", "*.cache_dir",
    "*.base_url",
)  # fmt: skip
"""What says how a step is computed and scored, not what is trained: a resumed run may change it. Patterns of keys."""

TRAINER = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "overfit_batches", "precision")
"""The options of the Trainer that must stay; how long a run is, where it runs and what it shows may change."""

_OPTIMIZER = "model.init_args.optimizer."


class Change(NamedTuple):
    """A value of the configuration that a checkpoint was trained with otherwise.

    Attributes:
        key: Its key, such as `model.init_args.optimizer.init_args.lr`.
        before: The checkpoint's value.
        now: The value given now.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        """One phrase for an error."""
        return f"{self.key} {_short(self.now)} (the checkpoint: {_short(self.before)})"


def trained_with(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that says what is trained.

    Args:
        config: The configuration of `fit` as plain values.
    """
    trainer = config.get("trainer") or {}
    return {
        **{name: config.get(name) for name in ("seed_everything", "model", "data")},
        "trainer": {name: trainer.get(name) for name in TRAINER},
    }


def saved_config(checkpoint: str) -> dict[str, Any] | None:
    """What a checkpoint was trained with; None if it does not say, being of a trainer without run folders.

    Args:
        checkpoint: Its file or folder. Of a file only what is asked for is read from disk.

    Raises:
        CheckpointError: If it cannot be read.
    """
    path = Path(checkpoint)
    if path.is_dir():
        if not is_sharded(path):
            return None
        saved = read_rest(path)
    elif path.is_file():
        with reading(path, "--ckpt_path "):
            saved = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    else:  # an object store's
        return None
    callbacks = saved.get("callbacks", {}) if isinstance(saved, dict) else {}
    config: dict[str, Any] | None = callbacks.get("SaveRun", {}).get("trained_with")
    return config


def changes(before: Any, now: Any, key: str = "") -> Iterator[Change]:
    """The values in which two configurations differ, those that are free left out.

    Args:
        before: The checkpoint's, plain values.
        now: The one given now.
        key: Where in the configuration both stand.
    """
    if any(fnmatch(key, pattern) for pattern in FREE) or before == now:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from changes(before.get(name), now.get(name), f"{key}.{name}".removeprefix("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from changes(old, new, f"{key}.{i}")
    else:
        yield Change(key, before, now)


def check_changes(checkpoint: str, config: Mapping[str, Any], accept: bool) -> list[Change]:
    """Compare a configuration with that of the checkpoint that a run goes on from.

    Args:
        checkpoint: The checkpoint's path.
        config: The configuration of `fit` as plain values.
        accept: Whether differences are accepted.

    Returns:
        The differences.

    Raises:
        ConfigError: If there are some and they are not accepted, or cannot be: another module, another optimizer.
        CheckpointError: If the checkpoint cannot be read.
    """
    saved = saved_config(checkpoint)
    if saved is None:
        return []
    differences = list(changes(saved, trained_with(config)))
    if not differences:
        return []
    told = listed([str(change) for change in differences])
    never = [c for c in differences if c.key in ("model.class_path", f"{_OPTIMIZER}class_path")]
    if never:
        raise ConfigError(f"--ckpt_path {checkpoint}: it cannot go on with {never[0]}; start a run of its own")
    if not accept:
        raise ConfigError(
            f"--ckpt_path {checkpoint}: it was trained with other values: {told}; give the checkpoint's, or "
            "--accept_changes true to go on with the new ones"
        )
    return differences


def requeued_checkpoint(root: Path) -> str | None:
    """The checkpoint that Lightning wrote before it had SLURM requeue this job; None in any other run.

    Args:
        root: `trainer.default_root_dir`.
    """
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0) < 1:
        return None
    numbered = {path: re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", path.name) for path in root.glob("hpc_ckpt_*.ckpt")}
    newest = max(((int(match[1]), str(path)) for path, match in numbered.items() if match), default=None)
    return newest[1] if newest else None


class ApplyChanges(Callback):
    """Gives the optimizer the options of the configuration, after those of the checkpoint were restored.

    Args:
        accepted: What was changed.
    """

    def __init__(self, accepted: list[Change]) -> None:
        self._options = {
            change.key.removeprefix(f"{_OPTIMIZER}init_args.").partition(".")[0]
            for change in accepted
            if change.key.startswith(_OPTIMIZER)
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set them, and the learning rate that the schedule has at this step.

        Raises:
            ConfigError: If the optimizer has no such option that can be changed.
        """
        module: Any = pl_module
        # As the configuration makes it: the one in use has the checkpoint's options.
        fresh = module.optimizer([torch.nn.Parameter(torch.zeros(1, 1))]).param_groups[0]
        for option in self._options - {"lr"}:
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups if option in group]
            if not groups or option not in fresh:
                raise ConfigError(f"--{_OPTIMIZER}init_args.{option}: it cannot be changed in a resumed run")
            for group in groups:
                group[option] = fresh[option]
        for config in trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            if "lr" in self._options:
                scheduler.base_lrs = [fresh["lr"]] * len(scheduler.base_lrs)
            rates = scheduler.get_lr()
            for group, base, rate in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, rates, strict=True):
                group["initial_lr"], group["lr"] = base, rate
            scheduler._last_lr = rates


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
