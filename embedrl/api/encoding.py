"""Items → vectors, part by part: only a part's pictures are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from embedrl.data.collate import EncodeCollator
from embedrl.data.inputs import Preprocessor
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.render import RenderOptions
from embedrl.data.side_dataset import encode_sample
from embedrl.errors import DataError, NonFiniteError
from embedrl.inference.frozen_embedder import encode
from embedrl.models.backbone import Backbone
from embedrl.types import Side

_MICRO_BATCHES = 8  # a part's: sides of like length go through the model together


@dataclass
class Encoder:
    """What turns sides into vectors, as evaluation does.

    Attributes:
        backbone: The Embedder, built.
        preprocessor: Its preprocessor.
        render: What it reads of a side and its T-CoT.
        device: Where it is.
        micro_batch_size: Sides that go through it at once.
    """

    backbone: Backbone
    preprocessor: Preprocessor
    render: RenderOptions
    device: torch.device
    micro_batch_size: int

    @property
    def part(self) -> int:
        """Sides that are read together."""
        return self.micro_batch_size * _MICRO_BATCHES

    @torch.no_grad()
    def vectors(
        self, sides: Sequence[Side], names: Sequence[str], on_bad: OnBadMode = "raise"
    ) -> tuple[Tensor, dict[int, BadSample]]:
        """Unit vectors of the sides of one part, `[sides, dim]`, float32, on the CPU; and the bad sides by position.

        Args:
            sides: The sides, at least one.
            names: Name of each for errors.
            on_bad: A side that cannot be read: `raise`, or `skip`; the vectors of bad sides mean nothing.

        Raises:
            DataError: If a side cannot be read and `on_bad` is `raise`.
            NonFiniteError: If a vector is NaN or infinite.
        """
        fitting = self.preprocessor if self.render.on_bad_tcot == "lenient" else None
        samples = [
            encode_sample(side, self.render, name, fitting, [], on_bad) for side, name in zip(sides, names, strict=True)
        ]
        batch = EncodeCollator(self.preprocessor, self.micro_batch_size, on_bad=on_bad)(samples)
        vectors = encode(self.backbone, batch.micro_batches, batch.order, self.device).float().cpu()
        for row in (~torch.isfinite(vectors).all(1)).nonzero().flatten().tolist():
            if row not in batch.bad:
                raise NonFiniteError(
                    f"{names[row]}: the vector is NaN or infinite: the model diverged, or computes in a type that "
                    "overflows (give dtype='float32')"
                )
        return vectors, batch.bad


@dataclass
class Encoded:
    """Vectors of those items that could be read.

    Attributes:
        vectors: `[kept, dim]`, float32, in the order of the items.
        kept: The position of each vector's item.
        bad: What is wrong with the others, by position.
    """

    vectors: Tensor
    kept: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)


def encode_parts(
    parts: Iterator[list[tuple[int, Side | BadSample]]],
    encoder: Encoder,
    on_bad: OnBadMode,
    advance: Callable[[int], None],
) -> Encoded:
    """The vectors of sides that come in parts.

    Args:
        parts: Positions and sides; in place of a side, what is wrong with it.
        encoder: What embeds.
        on_bad: A side that cannot be read: `raise`, or `skip`.
        advance: Takes the number of items that were done.

    Raises:
        DataError: If a side cannot be read and `on_bad` is `raise`.
        NonFiniteError: If a vector is NaN or infinite.
    """
    done: list[Tensor] = []
    result = Encoded(torch.zeros(0, 0))
    for part in parts:
        good = [(position, side) for position, side in part if isinstance(side, Side)]
        result.bad |= {position: side.message for position, side in part if isinstance(side, BadSample)}
        if good:
            names = [f"item {position}" for position, _ in good]
            vectors, bad = encoder.vectors([side for _, side in good], names, on_bad)
            rows = [row for row in range(len(good)) if row not in bad]
            done.append(vectors[rows])
            result.kept += [good[row][0] for row in rows]
            result.bad |= {good[row][0]: sample.message for row, sample in bad.items()}
        advance(len(part))
    if done:
        result.vectors = torch.cat(done)
    result.bad = dict(sorted(result.bad.items()))
    return result


def bad_item(error: DataError, position: int) -> BadSample:
    """An item that cannot be read, named by its position."""
    return BadSample.of(DataError(f"item {position}: {error}", error.cause), "items", f"item {position}")
