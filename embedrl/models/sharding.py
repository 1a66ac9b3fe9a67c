"""A model sharded by FSDP2, made whole for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Hold all parameters on every process, gathered once, so that no forward pass inside exchanges anything.

    Processes may then run different numbers of passes, or none; all of them must enter and leave together. Only for
    passes without gradients. Does nothing if the module is not sharded. Afterwards every module but the root gives its
    parameters back after each forward pass, as `fully_shard` sets it by default.

    Args:
        module: The root of the sharding.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    # The first forward pass would do this; the modules below must know their root before.
    module._get_fsdp_state()._lazy_init()
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    try:
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not module, recurse=False)
            part.reshard()
