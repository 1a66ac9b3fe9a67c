"""How long the command line takes to answer, to read a recipe, and to make a first training step.

    python benchmarks/startup.py                   # a few minutes
    python benchmarks/startup.py --size smallest   # each command once

Whole commands in processes of their own, with one thread, in turn. `import lightning and transformers` is what any
training with these libraries begins with. The first step is that of the quickstart's Embedder (32 pairs, from the
shipped base), `fit` from start to end; nothing is validated or saved.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Literal

from command import embedrl
from jsonargparse import auto_cli
from timing import Row, report

RECIPE = str(Path(__file__).resolve().parents[1] / "configs/quickstart/embedder.yaml")
FIRST_STEP = (
    "--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.callbacks=null", "--trainer.logger=false",
    "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false",
)  # fmt: skip


def python(code: str) -> None:
    """Run a line of Python in a process of its own."""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def main(
    repeats: int = 7,
    size: Literal["full", "smallest"] = "full",
    out: Path | None = None,
) -> None:
    """Measure, and print the table as Markdown.

    Args:
        repeats: Rounds.
        size: `smallest` takes one.
        out: Folder for the results; None only prints.
    """
    repeats = 1 if size == "smallest" else repeats
    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(embedrl, folder=Path(folder))
        calls: dict[str, Callable[[], None]] = {
            "`python -c pass`": lambda: python("pass"),
            "`embedrl --help`": lambda: run("--help"),
            "import lightning and transformers": lambda: python(
                "import lightning.pytorch, transformers; transformers.Qwen3VLForConditionalGeneration"
            ),
            "`embedrl fit --config … --print_config`": lambda: run("fit", "--config", RECIPE, "--print_config"),
            "`embedrl fit` up to the end of step 1": lambda: run("fit", "--config", RECIPE, *FIRST_STEP),
        }
        found: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                found[name].append(time.perf_counter() - start)
    rows: list[Row] = [
        {"command": name, "wall s, median": median(values), "least": min(values)} for name, values in found.items()
    ]
    report("startup", rows, out, repeats=repeats)


if __name__ == "__main__":
    auto_cli(main)
