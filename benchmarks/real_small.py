"""The table of docs/results.md: models on real pictures and pages, beside chance and a search engine that reads text.

    embedrl eval --config configs/eval/real_small.yaml ...
    python benchmarks/real_small.py --runs '[runs/real_small_open_clip, runs/real_small_tiny]'

The text-only baseline is BM25 over what a search engine would have in a candidate's place: the text layer of a page, or
the path of a picture (its folders and its name, which its authors chose) below the package's folder.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, auto_cli

from embedrl.data.pdf import PdfPage
from embedrl.data.sources import TaskSource
from embedrl.evaluation.baselines import chance, text_only
from embedrl.evaluation.report import read_report
from embedrl.types import RetrievalTask

CONFIG = Path(__file__).parents[1] / "configs/eval/real_small.yaml"
METRICS = ("hit@1", "hit@10", "ndcg_linear@10")


def make_tasks(config: Path) -> list[RetrievalTask]:
    """The tasks that a configuration of `embedrl eval` names."""
    parser = ArgumentParser()
    parser.add_argument("--tasks", type=list[TaskSource])
    named = parser.parse_object({"tasks": yaml.safe_load(config.read_text())["tasks"]})
    return [task for source in parser.instantiate(named).tasks for task in source.tasks()]


def candidate_texts(task: RetrievalTask) -> list[str]:
    """What stands for each candidate in a search engine that sees no pixels."""
    assert task.candidate_ids is not None
    pages = [side.images[0] for side in task.candidates]
    return [
        page.text() if isinstance(page, PdfPage) else path for page, path in zip(pages, task.candidate_ids, strict=True)
    ]


def row(task: str, what: str, figures: list[float]) -> str:
    """One line of the table."""
    return f"| {task} | {what} | {' | '.join('' if value < 0 else f'{value:.3f}' for value in figures)} |"


def main(runs: list[Path], config: Path = CONFIG) -> None:
    """Print the table.

    Args:
        runs: Folders that `embedrl eval` wrote.
        config: The configuration that names the tasks.
    """
    reports = {run.name: {result.name: result for result in read_report(run).sets} for run in runs}
    print(f"| task, queries / candidates | | {' | '.join(METRICS)} |")
    print(f"|---|---|{'---|' * len(METRICS)}")
    for task in make_tasks(config):
        print(row(f"**{task.name}**", "chance", [chance(task, 1), chance(task, 10), -1]))
        found = text_only(task, candidate_texts(task))
        print(row(f"{len(task.queries)} / {len(task.candidates)}", "text only (BM25)", [found[m] for m in METRICS]))
        for name, report in reports.items():
            result = report[task.name]
            assert (result.queries, result.candidates) == (len(task.queries), len(task.candidates)), task.name
            print(row("", name, [result.metrics[metric] for metric in METRICS]))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
