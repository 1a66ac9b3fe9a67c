"""The patch embedding as the matrix product that it is."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PatchConv3d(nn.Conv3d):
    """A convolution whose input is as large as its kernel: one matrix product, which is faster than a convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """As `Conv3d.forward` on patches `[patches, channels, frames, height, width]`."""
        product = functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return product[:, :, None, None, None]


def make_linear(network: nn.Module) -> None:
    """Turn the patch embeddings of a Qwen3-VL, which get their patches one by one, into matrix products."""
    for module in network.modules():
        if type(module) is nn.Conv3d and module.kernel_size == module.stride:
            module.__class__ = PatchConv3d  # weights, names and hooks stay
