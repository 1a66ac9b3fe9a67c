"""Rows by key whose bad ones are replaced or left out, whether they fail when they are read or when they are processed.

A good batch costs nothing more: only when a batch fails are its samples tried one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from embedrl.data.inputs import GeneratorPreprocessor, ModelInputs
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.errors import DataError, TooManyBadError
from embedrl.types import Chat

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
B = TypeVar("B", bound="CountsSkipped")

MAX_IN_A_ROW = 10
"""After this many bad rows in a row the run stops: the data set itself is broken."""


class Rows(Protocol[T_co]):
    """Samples by key; a pure function of the key."""

    def __getitem__(self, key: Any, /) -> T_co:
        """The sample of a key.

        Raises:
            DataError: If it is bad.
        """
        ...

    def after(self, key: Any) -> Any:
        """The key of the next row of the same data set, the first one following the last."""
        ...

    def named(self, key: Any) -> tuple[str, str]:
        """Names of the data set, and of the sample in it."""
        ...


class CountsSkipped(Protocol):
    """A batch that says which bad samples it goes without."""

    skipped: list[BadSample]


@dataclass
class Drawn(Generic[T]):
    """A sample, and the bad ones before it.

    Attributes:
        key: Its key, which is another than was asked for if that one's sample is bad.
        sample: The sample; None if it is bad and left out.
        skipped: The bad samples that it stands in for.
    """

    key: Any
    sample: T | None
    skipped: list[BadSample] = field(default_factory=list)


@dataclass
class CheckedRows(Generic[T]):
    """A map-style dataset of rows that are good as far as reading tells.

    What stands in for a bad row is a function of its key alone, so resuming and workers change nothing.

    Attributes:
        rows: The rows.
        on_bad: `raise`, or `skip` to another row.
        replace: Whether the next good row of the same data set takes the place of a bad one; else nothing does.
    """

    rows: Rows[T]
    on_bad: OnBadMode = "raise"
    replace: bool = True

    def __getitem__(self, key: Any) -> Drawn[T]:
        """The sample of a key.

        Raises:
            DataError: If it is bad and `on_bad` is `raise`.
            TooManyBadError: If ten rows in a row are bad.
        """
        return self._read(Drawn(key, None))

    def another(self, drawn: Drawn[T], error: DataError) -> Drawn[T]:
        """What takes the place of a sample that turned out to be bad.

        Args:
            drawn: The sample.
            error: What is wrong with it.

        Raises:
            DataError: If `on_bad` is `raise`.
            TooManyBadError: If ten rows in a row are bad.
        """
        if self.on_bad == "raise":
            raise error
        dataset, name = self.rows.named(drawn.key)
        skipped = [*drawn.skipped, BadSample.of(error, dataset, name)]
        if not self.replace:
            return Drawn(drawn.key, None, skipped)
        if len(skipped) >= MAX_IN_A_ROW:
            raise TooManyBadError(f"{dataset}: {MAX_IN_A_ROW} bad rows in a row, the last: {error}") from error
        return self._read(Drawn(self.rows.after(drawn.key), None, skipped))

    def _read(self, drawn: Drawn[T]) -> Drawn[T]:
        try:
            return Drawn(drawn.key, self.rows[drawn.key], drawn.skipped)
        except DataError as error:
            return self.another(drawn, error)


@dataclass
class CheckedCollator(Generic[T, B]):
    """Makes batches of what `CheckedRows` gives; a sample that cannot be processed is replaced or left out.

    Attributes:
        rows: Where the samples come from.
        collate: Makes a batch of samples.
        check: Processes one sample alone; raises a `DataError` that names it if it is bad.
    """

    rows: CheckedRows[T]
    collate: Callable[[list[T]], B]
    check: Callable[[Drawn[T]], object]

    def __call__(self, drawn: list[Drawn[T]]) -> B:
        """Collate samples.

        Raises:
            DataError: If a sample is bad and `on_bad` is `raise`.
            TooManyBadError: If ten rows in a row are bad.
        """
        try:
            batch = self.collate([one.sample for one in drawn if one.sample is not None])
        except DataError:
            checked = [self._checked(one) for one in drawn]
            if all(one is other for one, other in zip(drawn, checked, strict=True)):
                raise  # it is no fault of one sample
            drawn = checked
            batch = self.collate([one.sample for one in drawn if one.sample is not None])
        batch.skipped = [bad for one in drawn for bad in one.skipped]
        return batch

    def _checked(self, drawn: Drawn[T]) -> Drawn[T]:
        while drawn.sample is not None:
            try:
                self.check(drawn)
            except DataError as error:
                drawn = self.rows.another(drawn, error)
            else:
                break
        return drawn


def good_prompts(
    chats: Sequence[Callable[[], Chat]], preprocessor: GeneratorPreprocessor
) -> tuple[ModelInputs, dict[int, DataError]]:
    """The prompts of chats that can be made and processed.

    Args:
        chats: Each makes a chat, and opens its pictures.
        preprocessor: The preprocessor of the model that will answer.

    Returns:
        The inputs of the good ones in order, empty if there is none, and what is wrong with the others, by position.
    """
    try:
        return preprocessor.prompts([make() for make in chats]), {}
    except DataError as error:
        good, bad = [], {}
        for i, make in enumerate(chats):
            try:
                chat = make()
                preprocessor.prompts([chat])
                good.append(chat)
            except DataError as one:
                bad[i] = one
        if not bad:
            raise DataError(str(error), error.cause) from error  # it is no fault of one chat
        return preprocessor.prompts(good) if good else {}, bad
