"""hit@1 on the built-in world's test split, as an Embedder ranks it and after the world's reranker reads the best ones.

    embedrl fit --config configs/quickstart/embedder.yaml
    python benchmarks/reranking_world.py --out runs/reranking_world

Each seed trains `configs/world/reranker.yaml`. What is finished is not repeated, a training that was stopped goes on
from its last checkpoint, and the table says how many seeds it is the mean of.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli
from timing import report

from embedrl import FrozenEmbedder, QwenVLBackbone
from embedrl.cli import main as embedrl
from embedrl.data import RenderOptions
from embedrl.data.world import WorldTasks
from embedrl.metrics.retrieval import score, training_metrics
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.training.trained_model import load_reranker

CONFIGS = Path(__file__).parents[1] / "configs"
FAMILIES = ("vqa", "t2i", "i2t")
CPU = torch.device("cpu")

Scores = dict[str, dict[str, float]]
"""hit@1 by ranking (`before`, `best 5`, ...) and family."""


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
    depths: tuple[int, ...] = (10,)


SMALLEST = Setting(steps=2, queries=4, depths=(2,))


def train(out: Path, seed: int, steps: int | None) -> str:
    """Train one seed, unless that is done; what was begun goes on.

    Returns:
        The folder of its model.
    """
    model, run = out / f"model_{seed}", out / f"run_{seed}"
    if not model.exists():
        export = [{"class_path": "embedrl.training.ExportModel", "init_args": {"out": str(model)}}]
        values: dict[str, object] = {
            "seed_everything": seed,
            "trainer.limit_val_batches": 0,
            "trainer.enable_progress_bar": "false",
            "trainer.default_root_dir": run,
            "trainer.callbacks": json.dumps(export),
        }
        if steps is not None:
            values |= {"trainer.max_steps": steps, "checkpoint.every_n_steps": 1}
        if [*run.rglob("last.ckpt")]:
            values["ckpt_path"] = "last"
        flags = [f"--{name}={value}" for name, value in values.items()]
        if embedrl(["fit", "--config", str(CONFIGS / "world/reranker.yaml"), *flags]):
            raise RuntimeError(f"the training of seed {seed} failed")
    return str(model)


def measure(model: str, embedder: str, setting: Setting) -> Scores:
    """hit@1 before and after a reranker, which reads the sides as the recipe shows them.

    Args:
        model: The reranker: an export, a run or a checkpoint.
        embedder: The folder of the Embedder.
        setting: Queries and depths.
    """
    evidence = PixelBudget(2304, 6912)
    frozen = FrozenEmbedder(QwenVLBackbone(embedder, image_pixels=PixelBudget(1024, 2304), evidence_pixels=evidence))
    ranked = frozen.score(WorldTasks("test", setting.queries, FAMILIES).tasks(), CPU)
    reranker = load_reranker(model, "brief")
    reranker.render = RenderOptions(tcot="answer_only")
    reranker.build(CPU)
    scores = {"before": {one.task.name: one.metrics["hit@1"] for one in ranked}}
    for depth in setting.depths:
        scores[f"best {depth}"] = {
            one.task.name: score(reranker.rerank(one.task, one.ranking, depth), training_metrics())["hit@1"]
            for one in ranked
        }
    return scores


def rows(seeds: Sequence[Scores]) -> list[dict[str, object]]:
    """The table: a ranking a row, means and standard deviations over the seeds."""
    made: list[dict[str, object]] = []
    for name in seeds[0]:
        means = [statistics.mean(one[name].values()) for one in seeds]
        cells = {family: _spread([one[name][family] for one in seeds]) for family in FAMILIES}
        made.append({"hit@1": name, "mean of the families": _spread(means), **cells, "seeds": len(seeds)})
    return made


def _spread(values: Sequence[float]) -> str:
    text = f"{statistics.mean(values):.3f}"
    return f"{text} ± {statistics.stdev(values):.3f}" if len(values) > 1 else text


def main(
    out: Path = Path("runs/reranking_world"),
    embedder: str = "runs/quickstart_embedder/model",
    seeds: int = 3,
    smallest: bool = False,
) -> None:
    """Run the benchmark and write its table after every seed.

    Args:
        out: Where models, `reranking_world.md` and `reranking_world.json` go.
        embedder: The Embedder of the quickstart.
        seeds: Seeds of the training.
        smallest: Two steps a run, to try it out.
    """
    setting = SMALLEST if smallest else Setting()
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    measured: list[Scores] = []
    for seed in range(seeds):
        file = out / f"scores_{seed}.json"
        if not file.exists():
            scores = measure(train(out, seed, setting.steps), embedder, setting)
            file.write_text(json.dumps(scores, indent=1) + "\n")
        measured.append(json.loads(file.read_text()))
        report("reranking_world", rows(measured), out, setting=asdict(setting))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
