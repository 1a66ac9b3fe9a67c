"""Whether EG-RL's T-CoTs are a private code: queries and candidates written by different writers, in every combination.

    python benchmarks/egrl_world.py --rows '[EG-RL, outcome alone]' --seeds 1 --bases '[1, 2, 3]'
    python benchmarks/cross_play.py --bases '[1, 2, 3]'   # goes on from a copy of benchmarks/results/cross_play

Writers are the SFT Reasoner, EG-RL's policy and the perfect teacher. Each combination is ranked by the Embedder that
gave the rewards, and by that of the next base, which never did: what only the first understands is a code between it
and the policy. Beside it stand the share of truthful answers and how well the evidence fits. What is finished is not
repeated.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from egrl_world import EMBEDDER, REASONER, Bench
from egrl_world_measure import CPU, EVIDENCE, Data, load_embedder, mean_evidence, save
from egrl_world_report import with_interval
from jobs import run_jobs
from jsonargparse import auto_cli
from markdown_table import markdown

from embedrl.evaluation.seed_bootstrap import difference, estimate
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder
from embedrl.inference.tcot_writer import write_tcots
from embedrl.metrics.ranking import rank
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.types import RetrievalTask

WRITERS = ("SFT", "RL", "perfect")
SIDES = ("queries", "candidates")
RANKERS = {"reward": "by the reward's Embedder", "other": "by another seed's"}
Hits = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Sequence[int]]]]]
"""Base → ranker → query's writer / candidate's writer → family → 0 or 1 a query."""


def play(file: Path, writers: Mapping[str, Path], rankers: Mapping[str, Path], data: Data) -> None:
    """Rank what every pair of writers wrote; a job of the pool.

    Args:
        file: The file of the scores.
        writers: Name of a writer → its model; the perfect teacher comes by itself.
        rankers: Name of an Embedder → its model.
        data: The queries.
    """
    torch.set_num_threads(1)
    gold = data.tasks()
    written = {name: write(model, gold, data.limit) for name, model in writers.items()} | {"perfect": gold}
    fits = {name: evidence_by_side(tasks, gold) for name, tasks in written.items() if name != "perfect"}
    hits = {name: combine(written, FrozenEmbedder(load_embedder(model), LENIENT)) for name, model in rankers.items()}
    save(file, {"hits": hits, "evidence": fits})


def write(model: Path, gold: Sequence[RetrievalTask], limit: int) -> list[RetrievalTask]:
    """The tasks with a Reasoner's T-CoTs."""
    generator = QwenVLReasoner(str(model))
    generator.build()
    return write_tcots(gold, generator, CPU, style="brief", batch_size=64, max_new_tokens=limit)


def combine(
    written: Mapping[str, Sequence[RetrievalTask]], embedder: FrozenEmbedder
) -> dict[str, dict[str, list[int]]]:
    """Query's writer / candidate's writer → family → 0 or 1 a query."""
    found: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for tasks in zip(*written.values(), strict=True):
        vectors = {}
        for writer, task in zip(written, tasks, strict=True):
            for name in SIDES:
                sides = getattr(task, name)
                labels = [f"{writer} {task.name}/{name} {i}" for i in range(len(sides))]
                vectors[writer, name] = embedder.embed(sides, labels, CPU)
        for one in written:
            for two in written:
                ranking = rank(vectors[one, "queries"], vectors[two, "candidates"], tasks[0].qrels, tasks[0].pools)
                found[f"{one} / {two}"][tasks[0].name] = (ranking.relevance[:, 0] > 0).int().tolist()
    return found


def evidence_by_side(
    tasks: Sequence[RetrievalTask], gold: Sequence[RetrievalTask]
) -> dict[str, dict[str, dict[str, float]]]:
    """Side → what `EVIDENCE` names → family → mean of how T-CoTs compare with the perfect teacher's."""
    out: dict[str, dict[str, dict[str, float]]] = {name: defaultdict(dict) for name in SIDES}
    for task, perfect in zip(tasks, gold, strict=True):
        for name in SIDES:
            for what, mean in mean_evidence(getattr(task, name), getattr(perfect, name)).items():
                out[name][what][task.name] = mean
    return out


def report(folder: Path, split: str, resamples: int) -> None:
    """Write and print the tables of all bases."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted((folder / split).glob("base *.json"))}
    hits: Hits = {base: scores["hits"] for base, scores in found.items()}
    text = "\n\n".join(map(markdown, (hit_table(hits, resamples), word_table([s["evidence"] for s in found.values()]))))
    (folder / "table.md").write_text(text + "\n")
    print(text)


def hit_table(hits: Hits, resamples: int) -> list[list[str]]:
    """hit@1 of every combination by both Embedders, what the second has more, and both by family."""
    families = list(next(iter(hits.values()))["reward"]["SFT / SFT"])
    table = [["query / candidate", *RANKERS.values(), "the latter more (95 %, bases and queries)", *families]]
    for pair in (f"{one} / {two}" for one in WRITERS for two in WRITERS):
        runs = {
            which: {
                (base,): {name: np.array(values, float) for name, values in scores[which][pair].items()}
                for base, scores in hits.items()
            }
            for which in RANKERS
        }
        means = [f"{estimate(run, resamples=1).value:.3f}" for run in runs.values()]
        more = difference(runs["reward"], runs["other"], resamples=resamples)
        by_family = [
            ", ".join(f"{statistics.mean(one[name].mean() for one in run.values()):.2f}" for run in runs.values())
            for name in families
        ]
        table.append([pair, *means, with_interval(more), *by_family])
    return table


def word_table(fits: Sequence[Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]]) -> list[list[str]]:
    """Means over bases of how T-CoTs compare with the perfect teacher's, by writer and side."""
    families = list(fits[0]["SFT"]["queries"]["format"])
    table = [["writer", "side", "what", *families]]
    for writer in fits[0]:
        for side in SIDES:
            for what in (name for name in EVIDENCE if name in fits[0][writer][side]):
                by_base = [one[writer][side][what] for one in fits]
                means = {name: statistics.mean(values[name] for values in by_base) for name in by_base[0]}
                table.append([writer, side, what, *(f"{means[n]:.2f}" if n in means else "" for n in families)])
    return table


def main(
    runs: str = "runs/egrl_world",
    bases: list[int] | None = None,
    policy: str = "outcome_only_0",
    out: str = "runs/cross_play",
    split: str = "test",
    jobs: int = 2,
    smallest: bool = False,
) -> None:
    """Run the benchmark; print the tables as Markdown.

    Args:
        runs: The folder of `egrl_world.py`, with models.
        bases: Its bases, two or more; None: 0 and 1.
        policy: Name of EG-RL's folder there, without the base.
        out: Where the scores go, and `table.md`.
        split: The split of the world.
        jobs: Runs at a time, one thread each; 1 runs them in this process.
        smallest: Two queries a family, T-CoTs of a few tokens; give it an `out` of its own.
    """
    data = Data(split, 2, 8) if smallest else Data(split, 128)
    bench, bases = Bench(Path(runs).resolve(), data, {}, {}, ""), bases or [0, 1]
    if len(bases) < 2:
        raise SystemExit(f"--bases {bases}: give two or more; each is also ranked by the next one's Embedder")
    folder, work = Path(out).resolve(), []
    for base, following in zip(bases, [*bases[1:], bases[0]], strict=True):
        start = bench.folder("base", base)
        writers = {"SFT": start / REASONER, "RL": bench.folder(policy, base) / "runs/quickstart_egrl"}
        rankers = {"reward": start / EMBEDDER, "other": bench.folder("base", following) / EMBEDDER}
        models = [{name: path / "model" for name, path in paths.items()} for paths in (writers, rankers)]
        file = folder / split / f"base {base}.json"
        if file.exists():  # what is finished needs no models
            continue
        for path in (path for paths in models for path in paths.values()):
            if not path.exists():
                raise SystemExit(f"{path}: not there; run benchmarks/egrl_world.py first, for --bases '{bases}'")
        work.append((file, *models, data))
    run_jobs(play, work, jobs)
    report(folder, split, 200 if smallest else 10_000)


if __name__ == "__main__":
    auto_cli(main)
