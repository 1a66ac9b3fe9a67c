"""The data sets that an evaluation scores, and the published figures to compare with."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from embedrl.data.on_bad import OnBad, OnBadMode
from embedrl.data.sources import TaskSource
from embedrl.data.world import WorldTasks
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.published import Published, published
from embedrl.evaluation.readers.read_task import missing_files, read_task
from embedrl.evaluation.table import BENCHMARKS, load_table
from embedrl.types import RetrievalTask
from embedrl.utils.console import escaped
from embedrl.utils.file_names import check_file_names


@dataclass(frozen=True)
class Job:
    """A data set to score.

    Attributes:
        name: Its public name.
        group: The group it belongs to, such as `image/cls`.
        read: Reads it; returns the task and what was left out.
        expected_queries: Number of queries of the public data, if a source states it.
        missing: Checks for its files; returns those that are not below the root.
    """

    name: str
    group: str
    read: Callable[[], tuple[RetrievalTask, Mapping[str, int]]]
    expected_queries: int | None = None
    missing: Callable[[], list[str]] = list


def find_jobs(
    benchmark: str,
    root: Path | None,
    tasks: Sequence[TaskSource] | None,
    on_bad: OnBadMode,
    bad: OnBad | None = None,
) -> list[Job]:
    """The data sets to score, in the benchmark's order.

    Args:
        benchmark: `mmeb_v2`, `uvrb`, `world`, or any name for the tasks that are given.
        root: Folder with the local copy of a public benchmark.
        tasks: Where the tasks come from, unless the benchmark is public.
        on_bad: A row that cannot be read: `raise`, or `skip`.
        bad: Where rows that are left out are counted over the whole run and named, up to its limit.

    Raises:
        ConfigError: If a name is unknown, or the flags contradict each other.
        DataError: If a source cannot be read.
    """
    if benchmark in BENCHMARKS:
        if tasks is not None:
            raise ConfigError(f"--tasks: {benchmark} brings its own; leave it out")
        if root is None:
            raise ConfigError(f"--root: give the folder with the local copy of {benchmark}")
        if not root.is_dir():
            raise ConfigError(f"--root {root}: no such folder; give the one with the local copy of {benchmark}")
        folder = root
        jobs = [
            Job(
                row.name,
                row.group,
                partial(read_task, row, folder, on_bad, bad),
                row.num_queries,
                partial(missing_files, row, folder),
            )
            for row in load_table(benchmark)
        ]
    else:
        if root is not None:
            raise ConfigError(f"--root: only for {' and '.join(BENCHMARKS)}; the tasks of {benchmark} name their files")
        if tasks is None and benchmark != "world":
            close = difflib.get_close_matches(benchmark, (*BENCHMARKS, "world"), n=1)
            cure = f"did you mean {close[0]}?" if close else f"give {', '.join(BENCHMARKS)}, world, or --tasks"
            raise ConfigError(f"--benchmark {benchmark}: no such benchmark; {cure}")
        sources: Sequence[TaskSource] = [WorldTasks()] if tasks is None else tasks
        all_tasks = [task for source in sources for task in source.tasks()]
        jobs = [Job(task.name, benchmark, lambda task=task: (task, {})) for task in all_tasks]  # type: ignore[misc]
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--tasks: two tasks are named {name}")
    check_file_names(names, "--tasks")
    if not jobs:
        raise ConfigError("--tasks: nothing to score; give at least one source with a task")
    return jobs


def select_jobs(jobs: Sequence[Job], sets: Sequence[str] | None) -> list[Job]:
    """The data sets that were asked for; all if none were named.

    Raises:
        ConfigError: If there is no such data set.
    """
    names = [job.name for job in jobs]
    for name in sets or ():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            cure = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
            raise ConfigError(f"--sets {name}: no such data set; {cure}")
    return [job for job in jobs if not sets or job.name in sets]


def split_by_presence(jobs: Sequence[Job], on_bad: OnBadMode, list_absent: bool) -> tuple[list[Job], dict[str, str]]:
    """Split the data sets into present and absent ones, before anything is computed.

    Args:
        jobs: The data sets to score.
        on_bad: Data sets whose files are missing: `raise`, or `skip`.
        list_absent: Whether to list the absent ones on stderr.

    Returns:
        Those whose files are there, and why the others are not scored, by name.

    Raises:
        DataError: If files are missing and `on_bad` is `raise`, or no data set is there.
    """
    why = {job.name: ", ".join(f"no {path}" for path in absent) for job in jobs if (absent := job.missing())}
    here = [job for job in jobs if job.name not in why]
    if why and list_absent:
        rows = "".join(f"  {name}: {what}\n" for name, what in why.items())
        sys.stderr.write(escaped(f"{len(here)} of {len(jobs)} data sets are below --root; these are not:\n{rows}"))
    if why and (on_bad == "raise" or not here):
        name, first = next(iter(why.items()))
        cure = ", name those that are there with --sets, or leave these out with --on_bad skip" if here else ""
        raise DataError(
            f"{len(why)} of {len(jobs)} data sets are not below --root, the first is {name} ({first}): put them there "
            f"(docs/how_to/evaluation.md says where){cure}"
        )
    return here, why


def find_published(benchmark: str, models: Sequence[str]) -> list[Published]:
    """The published figures of some models on a benchmark.

    Raises:
        ConfigError: If there are none of a model.
    """
    if not models:
        return []
    known = published(benchmark) if benchmark in BENCHMARKS else {}
    for model in models:
        if model not in known:
            raise ConfigError(
                f"--beside {model}: no published figures on {benchmark}; there are {', '.join(known) or 'none'}"
            )
    return [known[model] for model in models]
