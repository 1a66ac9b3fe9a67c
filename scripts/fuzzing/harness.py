"""Runs a target with many inputs of one seed, and says what is no `EmbedRLError` or breaks its bounds."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import embedrl
from embedrl.errors import EmbedRLError
from embedrl.utils.console import one_line

Target = Callable[[Any, Path], None]
"""Draws an input and uses it, in an empty folder of its own; what it raises but an `EmbedRLError` is a finding."""

SECONDS, WALL, MIB = 6.0, 60, 768
"""Most processor time and memory that a case may take, and seconds after which it hangs."""


@dataclass
class Finding:
    """What went wrong.

    Attributes:
        target: The target.
        seed: The seed of its round.
        error: The last line of the traceback.
        place: Where it was raised: the innermost line of embedrl's.
        example: The smallest input: what was drawn.
        trace: The traceback.
    """

    target: str
    seed: int
    error: str
    place: str
    example: list[str]
    trace: str


@dataclass
class Round:
    """How many cases one seed had, and what they showed.

    Attributes:
        cases: Number of cases.
        refused: Those that an `EmbedRLError` ended.
        findings: What went wrong, each kind once.
        is_over: Whether the time was up before they were through.
    """

    cases: int = 0
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)
    is_over: bool = False


def run_round(name: str, target: Target, number: int, cases: int, end: float, known: set[str]) -> Round:
    """Run one seed.

    Args:
        name: Name of the target.
        target: The target.
        number: The seed; it decides every case.
        cases: Number of cases that are drawn; shrinking a finding takes more.
        end: Time of `time.monotonic` after which the rest are left out.
        known: Places of earlier findings, which are passed over; those of this round are added.
    """
    done = Round()
    while finding := _first(name, target, number, cases, end, known, done):
        done.findings.append(finding)
        if finding.place in known:  # flaky: it would be found for ever
            break
        known.add(finding.place)
    return done


def _first(
    name: str, target: Target, number: int, cases: int, end: float, known: set[str], done: Round
) -> Finding | None:
    """The first finding of a seed that is not known, shrunk to its end; None if there is none, or the time is up."""
    failed: list[str] = []

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(st.data())
    def case(data: Any) -> None:
        if time.monotonic() > end and not failed:
            done.is_over = True
            raise TimeUp
        done.cases += 1
        try:
            with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, quiet(), bounds():
                target(data, Path(folder))
        except EmbedRLError as error:
            done.refused += 1
            one_line(error).encode()
        except Exception as error:  # a finding, unless it is hypothesis's own
            if not type(error).__module__.startswith("hypothesis"):
                if place_of(error) in known:
                    return
                failed.append(place_of(error))
            raise

    try:
        case()
    except TimeUp:
        return None
    except Exception as error:  # noqa: BLE001  # reported
        if done.is_over and not failed:  # hypothesis wonders why the same input ends sooner
            return None
        trace = "".join(traceback.format_exception(error))
        notes = [note[:2000] for note in getattr(error, "__notes__", [])]
        last = traceback.format_exception_only(error)[0].strip()[:500]
        return Finding(name, number, last, place_of(error), notes, trace)
    return None


def place_of(error: BaseException) -> str:
    """The kind of an exception and the innermost line of embedrl's that it came through."""
    package = str(Path(embedrl.__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(package)]
    frames = frames or list(traceback.extract_tb(error.__traceback__))
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what is printed, and what libraries warn of, from the terminal."""
    with redirect_stderr(StringIO()), redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class TimeUp(BaseException):  # no error: hypothesis lets it pass
    """The target's time is up."""


class BoundError(AssertionError):
    """A case took too long, or too much memory."""


@contextmanager
def bounds() -> Iterator[None]:
    """Bound the processor time, the time and the memory of what is inside.

    Raises:
        BoundError: If it takes more.
    """

    def hangs(*_: object) -> None:
        raise BoundError(f"no end after {WALL} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(WALL)
    began, memory = time.process_time(), _peak_mib()
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if (took := time.process_time() - began) > SECONDS:
        raise BoundError(f"took {took:.1f} s of processor time")
    if (grew := _peak_mib() - memory) > MIB:
        raise BoundError(f"the process grew by {grew} MiB")


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def command(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command line in this process, in a folder; a clean end is a known code, with one line for an error.

    Returns:
        The exit code, and the line.
    """
    from embedrl.cli import main

    here, out, err = Path.cwd(), StringIO(), StringIO()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main(words)
            except SystemExit as stop:  # --help, --print_config
                code = int(stop.code or 0)
    finally:
        os.chdir(here)
    lines = [line for line in err.getvalue().splitlines() if "embedrl: error:" in line]
    assert code in (0, 1, 2), f"exit code {code}"
    assert "Traceback" not in err.getvalue()
    assert len(lines) == (code != 0), f"exit code {code} with {len(lines)} lines: {err.getvalue()[-500:]}"
    return code, "".join(lines)
