"""One model that reasons and embeds, or two: the systems that the field argues about, on the world's test split.

    python benchmarks/one_or_two.py                                           # 3 seeds: hours on two cores
    python benchmarks/one_or_two.py --smallest true --out /tmp/small          # checks the code alone

Every system is trained from the same base on the same pairs, written up by the same perfect teacher, in batches of the
same size and for the same number of optimizer steps: `--steps` of supervised training a model, `--rl_steps` of GRPO.
Embed-RL has two models and so takes the supervised steps twice; what each system takes in operations stands beside its
figures. Its Reasoner draws the families alike, the others by the mix's weights, and it goes without the base's lessons,
of which the quickstart's learns as well. Each system ranks by its own vectors. A query's time is taken at the end, when
nothing else runs, on the models of the first seed. What is finished, by training and by system and seed, is not
repeated: with what lies in `benchmarks/results/one_or_two` copied to `--out`, the report needs no model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from command import embedrl
from jobs import run_jobs
from jsonargparse import auto_cli
from one_or_two_measure import Row, modes, two_models
from one_or_two_report import GIVEN, report

from embedrl.data.render import RenderOptions
from embedrl.data.world import WorldTasks
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.types import RetrievalTask
from embedrl.utils.atomic_files import replacing

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MIX = CONFIGS / "parts/mix/world.yaml"


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        recipe: Its YAML below `configs`.
        folder: The folder of its run; an RL recipe reads its supervised model in the folder that its YAML names.
        reinforced: Whether it takes `--rl_steps`.
        changes: What is different from the recipe in `data.init_args`.
        rewards: The list of rewards below `configs/parts/reward`; None takes the recipe's.
    """

    recipe: str
    folder: str
    reinforced: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    rewards: str | None = None


ONE_TEACHER = {"mix": str(MIX), "render": {"on_bad_tcot": "raise"}}
PERFECT = {"train": {"class_path": "embedrl.data.TCoTLessons", "init_args": {"style": "brief"}}}
TRAININGS = {
    "raw": Training("quickstart/embedder", "raw_embedder", changes={"mix": str(MIX), "render": {"tcot": "none"}}),
    "embedder": Training("quickstart/embedder", "quickstart_embedder", changes=ONE_TEACHER),
    "reasoner": Training("quickstart/reasoner", "quickstart_reasoner", changes=PERFECT),
    "egrl": Training("quickstart/egrl", "quickstart_egrl", True, rewards="outcome_only"),
    "ume_r1_sft": Training("world/ume_r1_sft", "world_ume_r1_sft"),
    "ume_r1_rl": Training("world/ume_r1_rl", "world_ume_r1_rl", True),
    "rge": Training("world/rge", "world_rge"),
    "gate_sft": Training("world/gate_sft", "world_gate_sft"),
    "gate_rl": Training("world/gate_rl", "world_gate_rl", True),
    "plume": Training("world/plume", "world_plume"),
}
"""Name → training; one that reads another's model stands behind it."""
SMALLEST: dict[str, dict[str, Any]] = {
    "EmbedderModule": {"data": {"batch_size": 4, "sub_batch_size": 2, "micro_batch_size": 4}},
    "UnifiedEmbedderModule": {"data": {"batch_size": 4, "sub_batch_size": 2, "micro_batch_size": 4}},
    "ReasonerModule": {"data": {"batch_size": 4}},
    "EGRLModule": {
        "data": {"batch_size": 4, "block_size": 2},
        "model": {"group_size": 2, "rollout": {"max_new_tokens": 4}},
    },
}
"""Module → what leaves as little of its training as there can be."""


@dataclass(frozen=True)
class System:
    """One system of the comparison.

    Attributes:
        trainings: What it takes, in order.
        measure: Scores its models on tasks: called with the folder of the runs, the tasks, and the most new tokens.
    """

    trainings: tuple[str, ...]
    measure: Callable[[Path, Sequence[RetrievalTask], int], dict[str, Row]]


def model(runs: Path, name: str) -> Path:
    """What a training exports."""
    return runs / f"runs/{TRAININGS[name].folder}/model"


def unified(name: str, training: str, which: Sequence[str], render: RenderOptions = LENIENT) -> Callable[..., Any]:
    """Measures a unified model in some modes."""
    return lambda runs, tasks, limit: modes(name, model(runs, training), tasks, limit, which, render)


PRINTED, LATENT = RenderOptions(cues="printed"), RenderOptions(tcot="latent")
BOTH = ("disc", "gen", "oracle")
SYSTEMS = {
    "raw Embedder": System(
        ("raw",), lambda runs, tasks, limit: two_models("raw Embedder", model(runs, "raw"), None, tasks, limit)
    ),
    "Embed-RL, SFT": System(
        ("embedder", "reasoner"),
        lambda runs, tasks, limit: two_models(
            "Embed-RL, SFT", model(runs, "embedder"), model(runs, "reasoner"), tasks, limit
        ),
    ),
    "Embed-RL, EG-RL": System(
        ("embedder", "reasoner", "egrl"),
        lambda runs, tasks, limit: two_models(
            "Embed-RL, EG-RL", model(runs, "embedder"), model(runs, "egrl"), tasks, limit
        ),
    ),
    f"Embed-RL, {GIVEN}": System(
        ("embedder",),
        lambda runs, tasks, limit: two_models(
            f"Embed-RL, {GIVEN}", model(runs, "embedder"), None, tasks, limit, given=True
        ),
    ),
    "UME-R1, SFT": System(("ume_r1_sft",), unified("UME-R1, SFT", "ume_r1_sft", BOTH)),
    "UME-R1, RL": System(("ume_r1_sft", "ume_r1_rl"), unified("UME-R1, RL", "ume_r1_rl", BOTH)),
    f"UME-R1, SFT, {GIVEN}": System(("ume_r1_sft",), unified(f"UME-R1, SFT, {GIVEN}", "ume_r1_sft", ("given",))),
    "RGE": System(("rge",), unified("RGE", "rge", ("query",), PRINTED)),
    "gated": System(("gate_sft", "gate_rl"), unified("gated", "gate_rl", ("gen",))),
    "latent": System(("plume",), unified("latent", "plume", ("latent",), LATENT)),
}
"""Name → system."""
TIMED = 16
"""Queries a family whose time is taken, once nothing else runs."""


def train(runs: Path, name: str, seed: int, steps: int, smallest: bool) -> None:
    """Run a training in the folder of its seed, unless that is done."""
    figures = runs / f"{name}.json"
    if figures.exists():
        return
    training, recipe = TRAININGS[name], CONFIGS / f"{TRAININGS[name].recipe}.yaml"
    kind = yaml.safe_load(recipe.read_text())["model"]["class_path"].rpartition(".")[2]
    small = SMALLEST[kind] if smallest else {}
    data = training.changes | small.get("data", {})
    if "train" in data:  # lessons have no file of a mix: its sources, as they are
        sources = [row["source"] for row in yaml.safe_load(MIX.read_text())]
        data = data | {"train": data["train"] | {"init_args": data["train"]["init_args"] | {"sources": sources}}}
    rewards = {"rewards": str(CONFIGS / f"parts/reward/{training.rewards}.yaml")} if training.rewards else {}
    counted = runs / f"runs/{training.folder}/flops.json"
    overlay = {
        "seed_everything": seed,
        "trainer": {
            "max_steps": steps,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "default_root_dir": f"runs/{training.folder}",
            "callbacks": [
                {"class_path": "embedrl.training.ExportModel", "init_args": {"out": f"runs/{training.folder}/model"}},
                {"class_path": "count_flops.CountFlops", "init_args": {"out": str(counted)}},
            ],
        },
        "model": {"init_args": small.get("model", {}) | rewards},
        "data": {"init_args": data},
    }
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{name}.yaml"
    path.write_text(yaml.safe_dump(overlay, sort_keys=False))
    embedrl("fit", "--config", str(recipe), "--config", str(path), folder=runs, modules=Path(__file__).parent)
    save(figures, json.loads(counted.read_text()))


def run(
    out: Path, seed: int, systems: Sequence[str], steps: tuple[int, int], split: str, size: int,
    families: list[str] | None, limit: int, smallest: bool,
) -> None:  # fmt: skip
    """Train and measure some systems of one seed; a job of the pool."""
    torch.set_num_threads(1)
    runs = out / f"seed {seed}"
    tasks: list[RetrievalTask] = []
    for name in systems:
        file = out / split / f"{name} {seed}.json"
        if file.exists():
            continue
        for training in SYSTEMS[name].trainings:
            train(runs, training, seed, steps[TRAININGS[training].reinforced], smallest)
        tasks = tasks or WorldTasks(split, size, families).tasks()  # type: ignore[arg-type]  # a flag
        started = time.monotonic()
        rows = SYSTEMS[name].measure(runs, tasks, limit)
        taken = [json.loads((runs / f"{one}.json").read_text()) for one in SYSTEMS[name].trainings]
        costs = {what: sum(one[what] for one in taken) for what in ("flops", "steps", "cpu_seconds")}
        save(file, {"rows": {key: row.plain() for key, row in rows.items()}, "training": costs})
        print(f"{name}, seed {seed}: measured in {time.monotonic() - started:.0f} s", flush=True)


def time_alone(out: Path, split: str, size: int, families: list[str] | None, limit: int) -> None:
    """Take the time that the first seed's models need for a query, system by system, unless that is done."""
    torch.set_num_threads(1)
    for name in SYSTEMS:
        file, measured = out / f"timing/{name}.json", (out / split / f"{name} 0.json").exists()
        if measured and not file.exists() and not name.endswith(GIVEN):  # there nothing is written
            tasks = WorldTasks("val", size, families).tasks()  # type: ignore[arg-type]  # a flag
            rows = SYSTEMS[name].measure(out / "seed 0", tasks, limit)
            save(file, {key: row.milliseconds() for key, row in rows.items()})


def chains(names: Sequence[str]) -> list[list[str]]:
    """The systems, those together that have a training in common: no two jobs train the same."""
    found: list[list[str]] = []
    for name in names:
        own = set(SYSTEMS[name].trainings)
        joined = [one for one in found if any(own & set(SYSTEMS[other].trainings) for other in one)]
        found = [one for one in found if one not in joined] + [[*(other for one in joined for other in one), name]]
    return found


def save(file: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(json.dumps(content))


def main(
    out: str = "runs/one_or_two",
    seeds: int = 3,
    jobs: int = 2,
    systems: list[str] | None = None,
    steps: int = 300,
    rl_steps: int = 60,
    split: str = "test",
    size: int = 128,
    families: list[str] | None = None,
    smallest: bool = False,
) -> None:
    """Run the benchmark; print the tables as Markdown and draw the plot.

    Args:
        out: Where the runs go; `table.md`, `scores.json` and `plot.png` among them.
        seeds: Seeds of all trainings: order of the pairs, dropout, rollouts.
        jobs: Trainings at a time, one thread each.
        systems: Names of `SYSTEMS`; None: all.
        steps: Optimizer steps of each supervised training.
        rl_steps: Optimizer steps of each reinforced one.
        split: `test`; `val` to choose a recipe by.
        size: Queries a family.
        families: Families of the world; None: all.
        smallest: One seed, two steps of each training, two queries of two families; give it an `out` of its own.
    """
    folder = Path(out).resolve()
    wanted, limit = systems or list(SYSTEMS), 96
    if unknown := sorted(set(wanted) - set(SYSTEMS)):
        raise SystemExit(f"--systems: no {unknown[0]!r}; give some of {', '.join(SYSTEMS)}")
    if smallest:
        seeds, steps, rl_steps, size, families, limit = 1, 2, 2, 2, families or ["vqa", "video_qa"], 4
    shared = ((steps, rl_steps), split, size, families, limit, smallest)
    run_jobs(run, [(folder, seed, chain, *shared) for seed in range(seeds) for chain in chains(wanted)], jobs)
    time_alone(folder, split, min(size, TIMED), families, limit)
    report(folder, split, list(SYSTEMS))


if __name__ == "__main__":
    auto_cli(main)
