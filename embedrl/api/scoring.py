"""Scoring an Embedder from a program: what `embedrl eval` does, on benchmarks or on tasks of one's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from embedrl.api.embedder import Embedder
from embedrl.data.on_bad import OnBadMode
from embedrl.data.sources import TaskSource
from embedrl.evaluation.report import Report, read_report
from embedrl.evaluation.run import evaluate as run_evaluation
from embedrl.evaluation.tcots import TCoTOptions
from embedrl.models.backbone import Backbone
from embedrl.types import RetrievalTask


class GivenTasks:
    """Tasks that a program has made. In a configuration they are a hash of their content.

    Args:
        given: The tasks.
    """

    def __init__(self, given: Sequence[RetrievalTask]) -> None:
        self._tasks = list(given)
        self.given = _content(self._tasks)

    def tasks(self) -> list[RetrievalTask]:
        """The tasks."""
        return self._tasks


def evaluate(
    embedder: Embedder | str | Path | Backbone,
    tasks: str | RetrievalTask | TaskSource | Iterable[RetrievalTask | TaskSource],
    *,
    out: str | Path,
    root: str | Path | None = None,
    sets: list[str] | None = None,
    on_bad: OnBadMode = "raise",
    **options: Any,
) -> Report:
    """Score an Embedder, with its Reasoner if it has one; see `embedrl eval`, which this is from Python.

    Args:
        embedder: The Embedder, or what `Embedder.from_pretrained` takes.
        tasks: The name of a benchmark (`mmeb_v2`, `uvrb`, `world`), or tasks, or sources of tasks.
        out: Folder of the results: new, empty, or that of the same evaluation, which is then resumed.
        root: Folder with the local copy of `mmeb_v2` or `uvrb`.
        sets: Score these data sets only.
        on_bad: A row or a side that cannot be read: `raise`, or `skip`.
        **options: More of `embedrl eval`'s options: `keep`, `max_bad`, `metrics`, `encode`, `tcots`, `beside`.

    Returns:
        The report: `means`, and for every data set its `metrics` and its `score`.

    Raises:
        ConfigError: If an option is wrong, or `out` holds something else.
        DataError: If data are missing or broken.
        CheckpointError: If the model cannot be read.
        NonFiniteError: If a vector is NaN or infinite.
    """
    model = embedder if isinstance(embedder, Embedder) else Embedder.from_pretrained(embedder)
    sources: list[TaskSource] | None = None
    if not isinstance(tasks, str):
        given = [tasks] if isinstance(tasks, RetrievalTask) or hasattr(tasks, "tasks") else list(tasks)
        own = [task for task in given if isinstance(task, RetrievalTask)]
        sources = [task for task in given if not isinstance(task, RetrievalTask)]  # type: ignore[misc]
        sources += [GivenTasks(own)] if own else []
    if (reasoner := model.reasoner) is not None:
        options.setdefault(
            "tcots", TCoTOptions(None, None, reasoner.style, reasoner.batch_size, reasoner.max_new_tokens)
        )
    run_evaluation(
        tasks if isinstance(tasks, str) else "tasks",
        Path(out),
        backbone=model.backbone,
        render=model.render,
        root=None if root is None else Path(root),
        sets=sets,
        tasks=sources,
        reasoner=None if reasoner is None else reasoner.generator,
        on_bad=on_bad,
        device="cpu" if model.device.type == "cpu" else "cuda",
        **options,
    )
    return read_report(Path(out))


def _content(tasks: Sequence[RetrievalTask]) -> str:
    """A hash of tasks; no file is read for it."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps([task.name, task.version, task.instruction, task.main_metric]).encode())
        for sides in (task.queries, task.candidates):
            digest.update(json.dumps([(side.key, side.tcot) for side in sides]).encode())
        digest.update(json.dumps([sorted(dict(judged).items()) for judged in task.qrels]).encode())
        digest.update(json.dumps(task.pools and [list(pool) for pool in task.pools]).encode())
    return digest.hexdigest()[:32]
