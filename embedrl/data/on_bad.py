"""What is done about a bad sample, everywhere: stop, or go on without it, counted, named in a file, up to a limit."""

from __future__ import annotations

import errno
import fcntl
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from embedrl.errors import ConfigError, DataError, TooManyBadError

OnBadMode = Literal["raise", "skip"]
"""`raise` stops at the first bad sample; `skip` goes on without it."""

MAX_BAD = 1000
"""Different bad samples that a run leaves out unless it is told otherwise."""

FILE = "skipped.jsonl"
"""Name of the file in a run's folder."""


class BadSample(NamedTuple):
    """A sample that was left out.

    Attributes:
        dataset: Name of its data set, or of its retrieval task.
        id: Its name there; `row 7` if the row cannot be read.
        cause: The kind of fault, such as `missing_file`: samples are counted by it.
        message: What is wrong, in one line.
    """

    dataset: str
    id: str
    cause: str
    message: str

    @classmethod
    def of(cls, error: DataError, dataset: str, name: str) -> BadSample:
        """The sample that an error is about."""
        return cls(dataset, name, error.cause, " ".join(str(error).split()))


class OnBad:
    """One run's bad samples: each is counted once by cause and named in a file, and too many end the run.

    A `DataError` alone makes a sample bad. What a machine refuses (a full disk, too many open files) is a
    `StorageError`, which stops the run whatever the mode.

    Args:
        mode: `raise` or `skip`.
        max_bad: The most different bad samples that `skip` leaves out; one more ends the run.
        flag: What the options begin with in messages, such as `data.` or `--`.

    Attributes:
        counts: The bad samples by cause.

    Raises:
        ConfigError: If the limit is below 0.
    """

    def __init__(self, mode: OnBadMode = "raise", max_bad: int = MAX_BAD, flag: str = "data.") -> None:
        if max_bad < 0:
            raise ConfigError(f"{flag}max_bad is {max_bad}: give 0 or more")
        self.mode, self.max_bad, self.flag = mode, max_bad, flag
        self.counts: Counter[str] = Counter()
        self.path: Path | None = None
        self._known: set[tuple[str, str]] = set()

    def keep(self, path: Path, resume: bool = False, first: bool = True) -> None:
        """Name bad samples in a file from now on; nothing is written before the first.

        Args:
            path: The file. Several processes of a run share it.
            resume: Whether this run continues the one that wrote it: its samples are counted; else it is deleted.
            first: Whether this is the first process of the run: the samples of an earlier start are counted once.
        """
        self.path = path
        self.counts.clear()
        self._known.clear()
        if not resume and first and path.is_file():
            path.unlink()
        if resume and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                for dataset, name, cause in _read(file):
                    self._known.add((dataset, name))
                    if first:
                        self.counts[cause] += 1

    def skip(self, error: DataError, dataset: str, name: str) -> BadSample:
        """Leave out the sample that an error is about, and count it.

        Args:
            error: The error.
            dataset: The sample's data set.
            name: Its name there.

        Raises:
            DataError: The error itself under `raise`.
            TooManyBadError: If there are too many.
        """
        if self.mode == "raise":
            raise error
        bad = BadSample.of(error, dataset, name)
        self.add([bad])
        self.check()
        return bad

    def add(self, samples: Iterable[BadSample]) -> None:
        """Count samples that were left out, and name them in the file; one that is known already changes nothing.

        Raises:
            OSError: If the disk refuses.
        """
        for bad in samples:
            if (bad.dataset, bad.id) in self._known:
                continue
            self._known.add((bad.dataset, bad.id))
            if self.path is None or _append(self.path, bad):
                self.counts[bad.cause] += 1

    def check(self, counts: Counter[str] | None = None) -> None:
        """See that not too many samples were bad.

        Args:
            counts: Those of all processes; None means this one's.

        Raises:
            TooManyBadError: If there are more than `max_bad`.
        """
        counts = self.counts if counts is None else counts
        if counts.total() <= self.max_bad:
            return
        causes = ", ".join(f"{cause} {count}" for cause, count in counts.most_common() if count)
        where = f", {self.path} names them" if self.path is not None else ""
        raise TooManyBadError(
            f"{counts.total()} bad samples, more than {self.flag}max_bad {self.max_bad} ({causes}{where}): mend the "
            f"data, or raise {self.flag}max_bad"
        )


def _append(path: Path, bad: BadSample) -> bool:
    """Add a line unless another process, or an earlier start, has named the sample already; returns whether it did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems lock nothing; a line is still added as a whole
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        file.seek(0)
        text = file.read()
        file.seek(0)
        if any((dataset, name) == (bad.dataset, bad.id) for dataset, name, _ in _read(file)):
            return False
        torn = "\n" if text and not text.endswith("\n") else ""
        file.write(f"{torn}{json.dumps(bad._asdict(), ensure_ascii=False)}\n")
    return True


def _read(file: TextIO) -> Iterator[tuple[str, str, str]]:
    """Data set, name and cause of the samples in a file; a line that a killed run left unfinished is passed over."""
    for line in file:
        try:
            row = json.loads(line)
            yield str(row["dataset"]), str(row["id"]), str(row["cause"])
        except (ValueError, KeyError, TypeError):
            continue
