"""Which keys of a state dict training changes: what a checkpoint holds, and must hold."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from embedrl.errors import CheckpointError


def trained_keys(module: nn.Module) -> set[str]:
    """Names of what training changes: parameters with gradients, and the buffers of the modules that own them."""
    keys: set[str] = set()
    for prefix, part in module.named_modules(remove_duplicate=False):
        names = [name for name, p in part.named_parameters(recurse=False, remove_duplicate=False) if p.requires_grad]
        if names:
            buffers = {name for name, _ in part.named_buffers(recurse=False)} - part._non_persistent_buffers_set
            keys.update(f"{prefix}.{name}" if prefix else name for name in (*names, *buffers))
    return keys


def check_keys(module: nn.Module, saved: Iterable[str]) -> None:
    """Refuse a state that is not this module's; frozen weights may be absent.

    Raises:
        CheckpointError: Naming the keys that are unexpected, or trained and missing.
    """
    saved = set(saved)
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    problems = {"does not know": saved - known, "trains, but the checkpoint lacks,": trained_keys(module) - saved}
    for what, keys in problems.items():
        if keys:
            some = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
            raise CheckpointError(
                f"the checkpoint does not fit: the model {what} {len(keys)} keys ({some}); "
                "build the model with the options it was trained with (backbone, LoRA scope)"
            )
