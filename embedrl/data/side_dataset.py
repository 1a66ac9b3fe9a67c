"""The sides of retrieval tasks as batches to embed, each side once, distributed over ranks without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from embedrl.data.collate import EncodeSample, Place
from embedrl.data.inputs import Preprocessor
from embedrl.data.lenient_render import encode_chat
from embedrl.data.on_bad import OnBadMode
from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError, DataError
from embedrl.types import RetrievalTask, Side


class EncodeDataset:
    """This rank's batches of sides, for `DataLoader(batch_size=None)`: an item is a whole batch.

    Every rank gets the same number of batches, and the same number of micro-batches in each, because sharded models
    must run the same forward passes on every rank; sizes differ by one side at most and nothing is padded.

    Args:
        tasks: The tasks.
        options: How to render a side; the noise on the evidence is off.
        batch_size: At most this many sides per batch.
        rank: This process.
        world_size: Number of processes.
        fitting: The preprocessor of the model whose length T-CoTs are made to fit, as those of a Reasoner: see
            `fitting_chat`; None leaves the sides as they are.
        on_bad: A side that cannot be shown: `raise`, or `skip`, with which a stand-in says what is wrong.

    Attributes:
        largest: Number of sides in the largest batch of any rank.

    Raises:
        ConfigError: If there are too few different sides to give every rank the same number of batches.
    """

    def __init__(
        self,
        tasks: Sequence[RetrievalTask],
        options: RenderOptions,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        fitting: Preprocessor | None = None,
        on_bad: OnBadMode = "raise",
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.encode_batch_size is {batch_size}: give 1 or more")
        self.options, self.fitting, self.on_bad = options, fitting, on_bad
        self._names = [task.name for task in tasks]
        sides: dict[tuple[str, str], tuple[Side, list[Place]]] = {}
        for place, side in _sides(tasks):
            sides.setdefault((side.key, side.tcot), (side, []))[1].append(place)
        unique = list(sides.values())
        count = world_size * -(-len(unique) // (batch_size * world_size))
        if len(unique) < count:
            raise ConfigError(
                f"the tasks' {len(unique)} sides leave one of the {world_size} processes without work: "
                "raise data.encode_batch_size, or use fewer processes"
            )
        cuts = [len(unique) * i // count for i in range(count + 1)]
        self._batches = [unique[start:stop] for start, stop in pairwise(cuts)][rank::world_size]
        self.largest = -(-len(unique) // count) if count else 0

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return len(self._batches)

    def __getitem__(self, index: int) -> list[EncodeSample]:
        """One batch of rendered sides.

        Raises:
            DataError: If a side is bad and `on_bad` is `raise`; the message names the task and the position.
        """
        samples = []
        for side, places in self._batches[index]:
            task, kind, position = places[0]
            where = f"{self._names[task]}/{kind} {position}"
            samples.append(encode_sample(side, self.options, where, self.fitting, places, self.on_bad))
        return samples


def encode_sample(
    side: Side,
    options: RenderOptions,
    where: str,
    fitting: Preprocessor | None,
    places: list[Place],
    on_bad: OnBadMode,
) -> EncodeSample:
    """A side as `encode_chat` renders it, with the places its vector belongs; under `skip`, a stand-in for a bad one.

    Raises:
        DataError: If the side is bad and `on_bad` is `raise`; the message begins with `where`.
    """
    try:
        return EncodeSample(encode_chat(side, options, where, fitting), places, where)
    except DataError as error:
        if on_bad == "raise":
            raise
        return EncodeSample.stand_in(error, places, where)


def _sides(tasks: Sequence[RetrievalTask]) -> Iterator[tuple[Place, Side]]:
    for index, task in enumerate(tasks):
        for position, side in enumerate(task.queries):
            yield Place(index, "query", position), side
        for position, side in enumerate(task.candidates):
            yield Place(index, "candidate", position), side
