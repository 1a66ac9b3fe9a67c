"""What a picture or a video costs: read by the family's own processor, and run through its tower and projector."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from embedrl.planning.processors import read_inputs
from embedrl.planning.tracing import Cost, trace

COLOUR = (128, 100, 90)
"""Of the pictures that are read: no grey, as a tile of the value 0 counts as missing in some families."""
MARKS = 2
"""Tokens around a picture, a tile or a frame, where no tokenizer is at hand to tell."""


@dataclass(frozen=True)
class PlannedPicture:
    """A picture, or a video, as a model reads it.

    Attributes:
        tokens: Its tokens in a row, marks included.
        cost: What the tower and the projector take.
        features: Numbers that they hand to the decoder.
        tower: Operations of the tower alone if it is frozen, which a further pass can spare; 0 if it is trained.
        block: Bytes that the largest of its blocks saves for the backward pass.
    """

    tokens: int
    cost: Cost
    features: int
    tower: float
    block: float


class PictureReader:
    """Reads pictures for a model on the meta device.

    Args:
        model: A vision-language backbone or Reasoner.
        compute: Bytes of a number in the forward pass.
    """

    def __init__(self, model: Any, compute: int) -> None:
        self.model, self.compute = model, compute
        self._known: dict[Any, PlannedPicture] = {}

    def read(self, kind: str, size: tuple[int, int], count: int = 1) -> PlannedPicture:
        """Read one.

        Args:
            kind: image, evidence or video.
            size: Width and height.
            count: Frames of a video.
        """
        key = (kind, size, count)
        if key not in self._known:
            inputs, tokens = read_inputs(self.model, kind, [Image.new("RGB", size, COLOUR)] * count)
            self._known[key] = self._count(inputs, tokens)
        return self._known[key]

    def _count(self, inputs: dict[str, Tensor], tokens: int | None) -> PlannedPicture:
        core, weights = self.model.core, self.model.network.get_input_embeddings().weight
        read = core.get_video_features if "pixel_values_videos" in inputs else core.get_image_features
        given = {name: value for name, value in inputs.items() if name in inspect.signature(read).parameters}
        tower = vision_tower(self.model)
        with _counted(tower) as own:
            cost, features = trace(lambda: _features(read(**given)), core)
        if tokens is None:
            tokens = features[0].numel() // weights.shape[1] + MARKS * _tiles(given)
        # The tower ran in the dtype of its weights, and will in the one that is computed in.
        narrow = self.compute / weights.element_size()
        trained = tower is not None and any(p.requires_grad for p in tower.parameters())
        blocks = max((len(m) for m in tower.modules() if isinstance(m, nn.ModuleList)), default=1) if tower else 1
        return PlannedPicture(
            tokens,
            replace(cost, saved=cost.saved * narrow, kept=cost.kept * narrow),
            sum(x.numel() for x in features),
            0.0 if trained else float(sum(own)),
            cost.saved * narrow / blocks,
        )


def vision_tower(model: Any) -> Any:
    """The part of a model whose output is kept between passes where it is frozen; None if there is none."""
    family = getattr(model, "differences", None)
    return model.core.visual if family is None else family.vision_tower(model.core)


@contextmanager
def _counted(tower: Any) -> Iterator[list[int]]:
    """While open, the operations of each run of a tower are noted."""
    runs: list[int] = []
    if tower is None:
        yield runs
        return
    forward = tower.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = forward(*args, **kwargs)
        runs[:] = [counter.get_total_flops()]  # the last: with gradient checkpointing it runs twice
        return result

    tower.forward = counted
    try:
        yield runs
    finally:
        del tower.forward


def _features(output: Any) -> list[Tensor]:
    """What the decoder reads of a tower's output: the features, and those for its first layers (DeepStack)."""
    pooled = [x for x in tree_leaves(output.pooler_output) if isinstance(x, Tensor)]
    deeper = tree_leaves(getattr(output, "deepstack_features", None))
    whole = pooled[0] if len(pooled) == 1 else torch.cat([x.reshape(-1, x.shape[-1]) for x in pooled])
    return [whole, *(x for x in deeper if isinstance(x, Tensor))]


def _tiles(given: dict[str, Tensor]) -> int:
    """Pictures, tiles or time steps."""
    grid = next((value for name, value in given.items() if name.endswith("grid_thw")), None)
    if grid is not None:
        return int(grid[:, 0].sum())
    pixels = next(value for name, value in given.items() if name.startswith("pixel_values"))
    picture = 3 if pixels.ndim > 3 and pixels.shape[-3] == 3 else 2
    return pixels.shape[:-picture].numel()
