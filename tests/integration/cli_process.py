"""The CLI in processes of their own, and what a run logged.

The processes come from a fork server that has imported the heavy packages once: each is a fresh process that runs
`embedrl.cli.main`, without the half minute of imports.
"""

import multiprocessing
import sys
from collections import defaultdict
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["embedrl.training_cli", "embedrl.models.embedder", "embedrl.models.qwen_vl"])


def run(args: list[str], log: str) -> None:
    """What a child does: the CLI, its output in a file."""
    with Path(log).open("a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        import torch

        from embedrl.cli import main

        torch.set_num_threads(1)
        multiprocessing.set_start_method("fork", force=True)  # loader workers as in a run started by hand
        code = main(args)
    sys.exit(code)


def start(args: list[str], log: Path) -> ForkServerProcess:
    process = CONTEXT.Process(target=run, args=(args, str(log)))
    process.start()
    return process


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
