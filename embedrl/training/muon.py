"""Muon, fast on every CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import timm.optim
import timm.optim.muon as timm_muon
import torch
from torch import Tensor


class Muon(timm.optim.Muon):  # type: ignore[misc]  # timm has no types
    """timm's Muon, which orthogonalizes in float32 on a CPU.

    timm's Newton-Schulz iteration always computes in bfloat16. A CPU without instructions for it emulates each product,
    which makes the iteration tens of times slower than in float32, and most of a small model's step. On other devices
    the iteration is timm's, and so are the arguments, the state and its checkpoints.

    Source: Muon, https://kellerjordan.github.io/posts/muon; `timm.optim.Muon`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step.

        Args:
            closure: Computes the loss again.
        """
        with _float32_on_cpu():
            return super().step(closure)


@contextmanager
def _float32_on_cpu() -> Iterator[None]:
    iterate = timm_muon.zeropower_via_newtonschulz  # timm's step has no argument for it

    def orthogonalize(matrix: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if matrix.device.type == "cpu":
            kwargs["dtype"] = torch.float32
        return iterate(matrix, *args, **kwargs)  # type: ignore[no-any-return]

    timm_muon.zeropower_via_newtonschulz = orthogonalize
    try:
        yield
    finally:
        timm_muon.zeropower_via_newtonschulz = iterate
