"""The CLI in processes of their own, and what a run logged."""

import sys
from collections import defaultdict
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import processes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def run(args: list[str]) -> None:
    """What a child does: the CLI."""
    from embedrl.cli import main

    sys.exit(main(args))


def start(args: list[str], log: Path) -> ForkServerProcess:
    """Start the CLI, its output in a file."""
    return processes.start(run, (args,), log)


def logged(folder: Path, tag: str) -> dict[int, list[float]]:
    """Every value of a curve by step, over all starts of the run; a step that was run twice has two."""
    values = defaultdict(list)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                values[event.step].append(event.value)
    return dict(values)
