"""hit@1 on the built-in world's test split, as an Embedder ranks raw sides and after a reranker reads the best ones.

    python benchmarks/reranking_world.py --out runs/reranking_world

Each seed trains `configs/world/raw_embedder.yaml` and `configs/world/reranker.yaml`, which see the same pairs and twins
of their targets. What is finished is not repeated, a training that was stopped goes on from its last checkpoint, and
the table says how many seeds it is the mean of. Beside them stands an Embedder that reads T-CoTs of the world's perfect
teacher, the shipped one.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from fitting import fit
from jsonargparse import auto_cli
from timing import report

from embedrl import FrozenEmbedder, QwenVLBackbone
from embedrl.data import RenderOptions
from embedrl.data.world import WorldTasks
from embedrl.evaluation.seed_bootstrap import Runs, difference
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.inference.reranker import reordered
from embedrl.metrics.ranking import Ranking
from embedrl.metrics.retrieval import HitRate
from embedrl.metrics.task_scorer import TaskResult
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.training.trained_model import load_reranker

FAMILIES = ("cls", "vqa", "t2i", "i2t")
CPU = torch.device("cpu")
RAW = RenderOptions(tcot="none")
BEFORE = "the Embedder, raw sides"
PERFECT = "an Embedder with T-CoTs of the perfect teacher"

Hits = dict[str, dict[str, list[float]]]
"""0 or 1 for each query: by ranking and family."""


@dataclass(frozen=True)
class Setting:
    """How large the benchmark is.

    Attributes:
        steps: Optimizer steps of each training; None means the recipe's.
        queries: Test queries of each family.
        depths: How many of the best candidates are read.
    """

    steps: int | None = None
    queries: int = 128
    depths: tuple[int, ...] = (10, 20)


SMALLEST = Setting(steps=2, queries=4, depths=(2,))


@dataclass(frozen=True)
class Scores:
    """What one seed measured.

    Attributes:
        hits: Whether the first candidate is right.
        within: The same for a perfect order of the best candidates, by how many are ordered.
        milliseconds: CPU time of one query, by ranking: the mean over families. A candidate's is measured at the
            largest depth.
    """

    hits: Hits
    within: Hits
    milliseconds: dict[str, float]


def train(out: Path, seed: int, setting: Setting) -> tuple[str, str]:
    """Train the Embedder and the reranker of one seed, unless that is done.

    Returns:
        The folders of their models.
    """
    few: dict[str, object] = {"trainer__max_steps": setting.steps, "checkpoint__every_n_steps": setting.steps}
    size = {f"data__init_args__{name}": 4 for name in ("batch_size", "micro_batch_size") if setting.steps}
    few |= {"seed_everything": seed, **size}
    halves = {"data__init_args__sub_batch_size": 2} if setting.steps else {}
    order = {"data__init_args__train__init_args__seed": seed}  # of its lessons, and so which ones it sees
    reranker = fit("world/reranker.yaml", out / f"run_{seed}", out / f"model_{seed}", **few, **order)
    embedder = fit("world/raw_embedder.yaml", out / f"embedder_run_{seed}", out / f"embedder_{seed}", **few, **halves)
    return embedder, reranker


def rank(embedder: str, render: RenderOptions, setting: Setting, teacher: str) -> list[TaskResult]:
    """The families' test queries with their best candidates."""
    tasks = WorldTasks("test", setting.queries, FAMILIES, teacher)  # type: ignore[arg-type]  # a name of TEACHERS
    return _frozen(embedder, render).score(tasks.tasks(), CPU, metrics=[HitRate(1), HitRate(max(setting.depths))])


def _frozen(embedder: str, render: RenderOptions) -> FrozenEmbedder:
    evidence = PixelBudget(2304, 6912)
    backbone = QwenVLBackbone(embedder, image_pixels=PixelBudget(1024, 2304), evidence_pixels=evidence)
    return FrozenEmbedder(backbone, render)


def measure(embedder: str, reranker: str, setting: Setting) -> Scores:
    """hit@1 before and after a reranker, which reads the sides as the recipe shows them.

    Args:
        embedder: The folder of the Embedder.
        reranker: The folder of the reranker.
        setting: Queries and depths.
    """
    ranked = rank(embedder, RAW, setting, "none")
    scores = Scores({BEFORE: _first(ranked)}, {}, {BEFORE: _embedding_ms(embedder, ranked)})
    reader = load_reranker(reranker, "brief")
    reader.render = RAW
    reader.build(CPU)
    deepest = max(setting.depths)
    start = time.process_time()
    read = [reader.rerank(one.task, one.ranking, deepest) for one in ranked]
    candidates = deepest * sum(len(one.task.queries) for one in ranked)
    each = 1000 * (time.process_time() - start) / candidates
    for depth in setting.depths:
        name = _name(depth)
        scores.milliseconds[name] = scores.milliseconds[BEFORE] + depth * each
        orders = [_shallower(one.ranking, whole, depth) for one, whole in zip(ranked, read, strict=True)]
        scores.hits[name] = {
            one.task.name: HitRate(1).per_query(order).tolist() for one, order in zip(ranked, orders, strict=True)
        }
        scores.within[name] = {one.task.name: HitRate(depth).per_query(one.ranking).tolist() for one in ranked}
    return scores


def _shallower(before: Ranking, read: Ranking, depth: int) -> Ranking:
    """The ranking if fewer of its candidates were read: a score does not depend on the others."""
    scores = torch.empty(len(before.indices), depth)
    for row, (first, order) in enumerate(zip(before.indices.tolist(), read.indices.tolist(), strict=True)):
        places = [order.index(candidate) for candidate in first[:depth]]
        scores[row] = read.scores[row, places]
    return reordered(before, scores)


def _name(depth: int) -> str:
    return f"its best {depth}, read by the reranker"


def _first(ranked: Sequence[TaskResult]) -> dict[str, list[float]]:
    return {one.task.name: HitRate(1).per_query(one.ranking).tolist() for one in ranked}


def _embedding_ms(embedder: str, ranked: Sequence[TaskResult]) -> float:
    """CPU milliseconds to embed a query, in batches; candidates, embedded once for all queries, are left out."""
    frozen = _frozen(embedder, RAW)
    frozen.build(CPU)
    queries = [query for one in ranked for query in one.task.queries]
    start = time.process_time()
    frozen.embed(queries, [f"query {i}" for i in range(len(queries))], CPU)
    return 1000 * (time.process_time() - start) / len(queries)


def rows(seeds: Sequence[Scores], reference: dict[str, list[float]]) -> list[dict[str, object]]:
    """The table: a ranking a row, means and standard deviations over the seeds, and what reading gains.

    Args:
        seeds: What each seed measured.
        reference: Hits of an Embedder with T-CoTs.
    """
    runs = {name: _runs([one.hits[name] for one in seeds]) for name in seeds[0].hits}
    made: list[dict[str, object]] = []
    for name, run in runs.items():
        gain = ""
        if name != BEFORE:
            found = difference(runs[BEFORE], run)
            gain = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        cost = statistics.mean(one.milliseconds[name] for one in seeds)
        made.append(_row(name, [one.hits[name] for one in seeds], gain, f"{cost:.0f}"))
    made += [
        _row(f"{name.partition(',')[0]}, in a perfect order", [one.within[name] for one in seeds])
        for name in seeds[0].within
    ]
    return [*made, _row(PERFECT, [reference])]


def _runs(seeds: Sequence[dict[str, list[float]]]) -> Runs:
    return {
        (f"seed {i}",): {family: np.array(hits) for family, hits in one.items()} for i, one in enumerate(seeds)
    }  # fmt: skip


def _row(name: str, seeds: Sequence[dict[str, list[float]]], gain: str = "", cost: str = "") -> dict[str, object]:
    means = [{family: statistics.mean(one[family]) for family in FAMILIES} for one in seeds]
    cells = {family: _spread([one[family] for one in means]) for family in FAMILIES}
    mean = _spread([statistics.mean(one.values()) for one in means])
    return {"hit@1": name, "mean": mean, "gain": gain, **cells, "CPU ms a query": cost, "seeds": len(seeds)}


def _spread(values: Sequence[float]) -> str:
    text = f"{statistics.mean(values):.3f}"
    return f"{text} ± {statistics.stdev(values):.3f}" if len(values) > 1 else text


def main(out: Path = Path("runs/reranking_world"), seeds: int = 3, smallest: bool = False) -> None:
    """Run the benchmark and write its table after every seed.

    Args:
        out: Where models, `reranking_world.md` and `reranking_world.json` go.
        seeds: Seeds of the trainings.
        smallest: Two steps a run, to try it out.
    """
    setting = SMALLEST if smallest else Setting()
    torch.set_num_threads(1)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    perfect = out / "reference.json"
    if not perfect.exists():
        perfect.write_text(json.dumps(_first(rank("embedrl:world_embedder", LENIENT, setting, "perfect"))) + "\n")
    measured: list[Scores] = []
    for seed in range(seeds):
        file = out / f"scores_{seed}.json"
        if not file.exists():
            scores = measure(*train(out, seed, setting), setting)
            file.write_text(json.dumps(asdict(scores)) + "\n")
        measured.append(Scores(**json.loads(file.read_text())))
        report("reranking_world", rows(measured, json.loads(perfect.read_text())), out, setting=asdict(setting))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
