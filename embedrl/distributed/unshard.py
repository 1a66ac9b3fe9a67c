"""Unsharding a model that FSDP2 shards, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

from torch import nn
from torch.distributed.fsdp import FSDPModule

_WHOLE: WeakSet[nn.Module] = WeakSet()


def is_whole(module: nn.Module) -> bool:
    """Whether this process holds all parameters: the module is not sharded, or inside `unsharded`."""
    return not isinstance(module, FSDPModule) or module in _WHOLE


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Hold all parameters on every process, gathered once, so that no forward pass inside exchanges anything.

    Processes may then run different numbers of passes, or none; all of them must enter and leave together. Only for
    passes without gradients. Does nothing if the module is not sharded, or is whole already. Afterwards every module
    but the root gives its parameters back after each forward pass, as `fully_shard` sets it by default.

    The adapter of a sharded model may be switched off in here alone: that freezes it for a while, and the parameters
    that are frozen then are these whole ones, not the shards that the optimizer and the checkpoints know.

    Args:
        module: The root of the sharding.
    """
    if is_whole(module):
        yield
        return
    assert isinstance(module, FSDPModule)
    # The first forward pass would do this; the modules below must know their root before.
    module._get_fsdp_state()._lazy_init()
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    _WHOLE.add(module)
    try:
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
    finally:
        _WHOLE.discard(module)
        for part in parts:
            part.set_reshard_after_forward(part is not module, recurse=False)
            part.reshard()
