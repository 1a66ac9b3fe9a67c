"""Whether EG-RL's T-CoTs are a private code: queries and candidates written by different writers, in every combination.

    python benchmarks/cross_play.py SFT RL E               # a second Embedder is trained first
    python benchmarks/cross_play.py SFT RL E --other none  # the reward's Embedder alone

`SFT`, `RL` and `E` are exported models, such as `runs/quickstart_egrl/model`. The perfect teacher is the third writer.
Each combination is ranked by the Embedder that gave the rewards, and by one of another seed that never did: what only
the first understands is a code between it and the policy. Beside it stand the share of truthful answers and how well
the evidence fits, by writer and side. What is finished is not repeated.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from egrl_world import SMALLEST, TEACHERS, train
from egrl_world_measure import CONFIGS, EVIDENCE, evidence, load_embedder
from jsonargparse import auto_cli
from markdown_table import markdown

from embedrl.data.world import WorldTasks
from embedrl.evaluation.seed_bootstrap import estimate
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.inference.tcot_writer import write_tcots
from embedrl.metrics.ranking import rank
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.types import RetrievalTask, Side
from embedrl.utils.atomic_files import replacing

CPU = torch.device("cpu")
WRITERS = ("SFT", "RL", "perfect")
SIDES = ("queries", "candidates")


def write(file: Path, gold: RetrievalTask, generator: QwenVLReasoner | None, max_new_tokens: int) -> None:
    """Write the T-CoTs of a task's sides to a file, unless it is there; None takes those the task has."""
    if file.exists():
        return
    task = gold
    if generator is not None:
        generator.build()
        [task] = write_tcots([gold], generator, CPU, "brief", batch_size=32, max_new_tokens=max_new_tokens)
    save(file, {name: [side.tcot for side in getattr(task, name)] for name in SIDES})


def written(file: Path, gold: RetrievalTask) -> RetrievalTask:
    """The task with the T-CoTs of a file."""
    texts = json.loads(file.read_text())

    def fill(name: str) -> list[Side]:
        return [side.with_tcot(text) for side, text in zip(getattr(gold, name), texts[name], strict=True)]

    return replace(gold, queries=fill("queries"), candidates=fill("candidates"))


def play(file: Path, tasks: dict[str, RetrievalTask], embedder: FrozenEmbedder) -> None:
    """Rank one family in every combination of writers, unless that is done: 0 or 1 a query."""
    if file.exists():
        return
    vectors = {
        (writer, name): embedder.embed(sides, [f"{writer} {task.name}/{name} {i}" for i in range(len(sides))], CPU)
        for writer, task in tasks.items()
        for name, sides in (("queries", task.queries), ("candidates", task.candidates))
    }
    task = tasks["perfect"]
    hits = {}
    for query in tasks:
        for candidate in tasks:
            ranking = rank(vectors[query, "queries"], vectors[candidate, "candidates"], task.qrels, task.pools)
            hits[f"{query} / {candidate}"] = (ranking.relevance[:, 0] > 0).float().tolist()
    save(file, hits)


def means(task: RetrievalTask, gold: RetrievalTask) -> dict[str, dict[str, float]]:
    """By side, what `EVIDENCE` names: means of how T-CoTs compare with the perfect teacher's."""
    out = {}
    for name in SIDES:
        values: dict[str, list[float]] = defaultdict(list)
        for side, right in zip(getattr(task, name), getattr(gold, name), strict=True):
            for what, value in evidence(side, right).items():
                values[what].append(value)
        out[name] = {what: statistics.mean(numbers) for what, numbers in values.items()}
    return out


def trained_families() -> list[str]:
    """The families of the quickstart's EG-RL."""
    rows = yaml.safe_load((CONFIGS / "parts/mix/world_egrl.yaml").read_text())
    return [row["source"]["init_args"]["family"] for row in rows]


def save(file: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(json.dumps(content))


def main(
    sft: str,
    rl: str,
    embedder: str,
    out: str = "runs/cross_play",
    other: str = "",
    teachers: Literal["both", "perfect"] = "both",
    split: str = "test",
    size: int = 64,
    families: list[str] | None = None,
    smallest: bool = False,
) -> None:
    """Run the benchmark; print the tables as Markdown.

    Args:
        sft: The Reasoner after SFT: an exported folder.
        rl: The Reasoner after EG-RL.
        embedder: The Embedder that gave the rewards.
        out: Where the results go; `table.md` and `scores.json` among them.
        other: An Embedder of another seed; empty trains one in `out`; `none` leaves it out.
        teachers: Whose T-CoTs the Embedder that is trained here learns from; take those of `embedder`.
        split: The split of the world.
        size: Queries a family.
        families: Names of families; None takes those that the quickstart's EG-RL trains on.
        smallest: Two queries of two families, T-CoTs of a few tokens; give it an `out` of its own.
    """
    torch.set_num_threads(1)
    folder = Path(out).resolve()
    names = families or (["vqa", "video_qa"] if smallest else trained_families())
    embedders = {"reward": embedder}
    if other != "none":
        seeds = ["--seed_everything=1", "--data.init_args.seed=1", "--trainer.limit_val_batches=0"]
        more = SMALLEST["embedder"] if smallest else []
        embedders["other"] = other or str(train(folder / "other", "embedder", *TEACHERS[teachers], *seeds, *more))
    generators = {"SFT": QwenVLReasoner(sft), "RL": QwenVLReasoner(rl), "perfect": None}
    frozen = {name: FrozenEmbedder(load_embedder(Path(path))) for name, path in embedders.items()}
    place = folder / split
    source = WorldTasks(split=split, size=2 if smallest else size, families=names)  # type: ignore[arg-type]  # a flag
    played: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in frozen}
    fits: dict[str, dict[str, Any]] = {writer: {} for writer in WRITERS}
    for name in names:
        gold = source.task(name).task
        tasks = {}
        for writer in WRITERS:
            file = place / f"tcots {writer} {name}.json"
            write(file, gold, generators[writer], 6 if smallest else 96)
            tasks[writer] = written(file, gold)
            fits[writer][name] = means(tasks[writer], gold)
        for which, model in frozen.items():
            file = place / f"hits {which} {name}.json"
            play(file, tasks, model)
            played[which][name] = json.loads(file.read_text())
    report(folder, played, fits)


def report(folder: Path, played: dict[str, dict[str, dict[str, list[float]]]], fits: dict[str, dict[str, Any]]) -> None:
    """Write and print the tables, and everything as JSON."""
    names = list(next(iter(played.values())))
    rows = [["query / candidate", *(f"by the {which} Embedder" for which in played), *names]]
    for one in WRITERS:
        for two in WRITERS:
            pair = f"{one} / {two}"
            cells = [interval({name: hits[name][pair] for name in names}) for hits in played.values()]
            by_family = [" ; ".join(f"{statistics.mean(h[name][pair]):.2f}" for h in played.values()) for name in names]
            rows.append([pair, *cells, *by_family])
    words = [["writer, side", "what", "mean", *names]]
    for writer in ("SFT", "RL"):
        for side in SIDES:
            for what in EVIDENCE:
                values = {name: fits[writer][name][side].get(what) for name in names}
                known = [value for value in values.values() if value is not None]
                if known:
                    cells = ["" if value is None else f"{value:.2f}" for value in values.values()]
                    words.append([f"{writer}, {side}", what, f"{statistics.mean(known):.3f}", *cells])
    text = "\n\n".join(markdown(part) for part in (rows, words))
    (folder / "table.md").write_text(text + "\n")
    save(folder / "scores.json", {"hits": played, "evidence": fits})
    print(text)


def interval(hits: dict[str, Sequence[float]]) -> str:
    """Mean over families, and its 95 % interval over queries."""
    got = estimate({("",): {name: np.array(values) for name, values in hits.items()}}, resamples=2000)
    return f"{got.value:.3f} ({got.low:.3f} to {got.high:.3f})"


if __name__ == "__main__":
    auto_cli(main)
