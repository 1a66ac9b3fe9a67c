"""What the speed benchmarks share: timings pair by pair, peak memory, and results as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import markdown_table
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from embedrl.utils.versions import environment

T = TypeVar("T")
OURS = "embedrl"
Row = dict[str, object]


class Seconds(NamedTuple):
    """What something took.

    Attributes:
        wall: By the clock on the wall.
        cpu: Of this process on all its threads: leaves out what other processes took from it.
    """

    wall: float
    cpu: float


def now() -> Seconds:
    """Both clocks; differences count."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Seconds(time.perf_counter(), time.process_time())


def since(start: Seconds) -> Seconds:
    """What has passed since `now()`."""
    end = now()
    return Seconds(end.wall - start.wall, end.cpu - start.cpu)


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Seconds]]:
    """Run all calls in turn, so that what disturbs the machine disturbs neighbours alike; one round is for warming up.

    Args:
        calls: What to time, by name.
        repeats: Rounds that count.
    """
    found: dict[str, list[Seconds]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            start = now()
            call()
            found[name].append(since(start))
    return {name: values[1:] for name, values in found.items()}


class Beside(Callback):
    """Runs others right before every training step of a module, and takes the time of each and of the step.

    The step is all that Lightning does with a batch once it is there, optimizer and logging included. The first round
    is for warming up.

    Args:
        others: What to run, by name.

    Attributes:
        seconds: Of each, and of the module as `embedrl`.
    """

    def __init__(self, others: Mapping[str, Callable[[], object]]) -> None:
        self.others = others
        self.seconds: dict[str, list[Seconds]] = {name: [] for name in (OURS, *others)}
        self._rounds = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Run the others, then start the clock."""
        for name, other in self.others.items():
            start = now()
            other()
            self.seconds[name].append(since(start))
        self._start = now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        self.seconds[OURS].append(since(self._start))
        self._rounds += 1
        if self._rounds == 1:
            for values in self.seconds.values():
                values.clear()


def quiet_trainer(folder: str | Path, steps: int, *callbacks: Callback, **options: Any) -> Trainer:
    """A trainer that does nothing but train."""
    options = {"accelerator": "cpu", "devices": 1} | options
    return Trainer(
        max_steps=steps, max_epochs=-1, default_root_dir=folder, callbacks=list(callbacks), logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        limit_val_batches=0, **options,
    )  # fmt: skip


def ratio(ours: Sequence[Seconds], theirs: Sequence[Seconds]) -> float:
    """Median over the rounds of our CPU seconds over theirs; below 1 is faster."""
    return median(a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True))


def seconds(values: Sequence[Seconds]) -> float:
    """Median CPU seconds."""
    return median(value.cpu for value in values)


# ---------------------------------------------------------------- memory


def apart(function: Callable[..., T], *args: object) -> T:
    """What a function returns in a fresh process with one thread."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as p:
        return p.submit(function, *args).result()


def resident_mib(field: str = "VmRSS") -> float:
    """Resident set of this process in MiB: now (`VmRSS`), or the most it ever was (`VmHWM`).

    Not `getrusage`: there a child process begins with the largest resident set of its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak_mib(call: Callable[[], object]) -> float:
    """By how many MiB the resident set grew at most during a call; in a process that never was larger before."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident_mib()
    call()
    return resident_mib("VmHWM") - before


# ---------------------------------------------------------------- results


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table; the first row's keys are the columns."""
    columns = list(rows[0])
    return markdown_table.markdown([columns, *([_cell(row.get(c, "")) for c in columns] for row in rows)])


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if abs(value) < 1e-3:
        return f"{value:.1e}" if value else "0"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def machine(*packages: str) -> dict[str, Any]:
    """Where and with what a figure was taken.

    Args:
        packages: Peers whose versions count too.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    facts = environment()
    facts["packages"] |= {name: version(name) for name in packages}
    return facts | {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": gpu or "cpu",
        "load": [round(x, 1) for x in os.getloadavg()],
    }


def report(name: str, rows: Sequence[Row], out: Path | None, *packages: str, **options: object) -> None:
    """Print a table with the machine and the versions under it; keep both if there is a folder.

    Args:
        name: Of the benchmark; names the files.
        rows: The table.
        out: Folder for `<name>.json` and `<name>.md`; None only prints.
        packages: Peers whose versions count too.
        options: What the benchmark was asked for.
    """
    facts = machine(*packages)
    used = ("torch", "transformers", "lightning", *packages)
    versions = ", ".join(f"{package} {facts['packages'][package]}" for package in used)
    place = facts["device"] if facts["device"] != "cpu" else f"{facts['cpu']}, {facts['cores']} cores"
    asked = ", ".join(f"{key} {value}" for key, value in options.items())
    text = f"{markdown(rows)}\n\n{place}, {facts['threads']} thread(s), load {facts['load'][0]}; {versions}; {asked}."
    print(text, flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {"options": options, "machine": facts, "rows": rows}
        (out / f"{name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
        (out / f"{name}.md").write_text(text + "\n")
