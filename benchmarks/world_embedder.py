"""What the T-CoT and its evidence are worth to the Embedder, on the built-in world's test split.

    python benchmarks/world_embedder.py

Every row trains `configs/quickstart/embedder.yaml` under `configs/parts/perfect_teacher.yaml`, from the same base with
the same number of steps and one switch turned; the T-CoTs, in training and in the test, are those of the world's
perfect teacher. A finished run is not repeated, so a benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from command import embedrl
from jsonargparse import auto_cli
from markdown_table import markdown
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl.data.world import WorldTasks

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPE = [f"--config={CONFIGS / name}.yaml" for name in ("quickstart/embedder", "parts/perfect_teacher")]
RENDER = "--data.init_args.render"
ROWS: dict[str, list[str]] = {
    "T-CoT with evidence (`tcot: full`)": [],
    "without cues (`cues: off`)": [f"{RENDER}.cues", "off"],
    "answer only (`tcot: answer_only`)": [f"{RENDER}.tcot", "answer_only"],
    "raw input (`tcot: none`)": [f"{RENDER}.tcot", "none"],
}


def measure(folder: Path, seed: int, switches: list[str], size: int, extra: list[str]) -> dict[str, float]:
    """Train and test one run, with `size` queries a family.

    Returns:
        `hit@1` of every family and their mean, on the test split.
    """
    scores = folder / "scores.json"
    if not scores.exists():
        seeds = [f"--{flag}={seed}" for flag in ("seed_everything", "model.init_args.seed", "data.init_args.seed")]
        root = ["--trainer.default_root_dir", str(folder), "--trainer.enable_progress_bar", "false"]
        tasks = [{"class_path": "embedrl.data.world.WorldTasks", "init_args": {"split": "test", "size": size}}]
        switches = [*switches, "--data.init_args.test", json.dumps(tasks)]
        # The grids and the validations are for people to look at.
        quiet = ["--trainer.limit_val_batches", "0", "--trainer.callbacks", "null"]
        embedrl("fit", *RECIPE, *seeds, *root, *quiet, *switches, *extra)
        embedrl("test", *RECIPE, *root, *quiet[2:], *switches, "--ckpt_path", "last")
        events = EventAccumulator(str(max(folder.glob("test_*"))))
        events.Reload()
        tags = [tag for tag in events.Tags()["scalars"] if tag.endswith("hit@1")]
        names = {tag: tag.removeprefix("test/").removesuffix("hit@1").rstrip("/") for tag in tags}
        found = {name: events.Scalars(tag)[-1].value for tag, name in names.items()}
        scores.write_text(json.dumps(found, indent=1))
    result: dict[str, float] = json.loads(scores.read_text())
    return result


def main(
    out: str = "runs/world_embedder", seeds: int = 3, jobs: int = 2, size: int = 128, extra: list[str] | None = None
) -> None:
    """Run the benchmark and print the table as Markdown.

    Args:
        out: Where the runs go.
        seeds: Seeds of the data's order and of the training.
        jobs: Runs at a time, one thread each.
        size: Queries a family in the test.
        extra: More flags of `embedrl fit`, such as `["--trainer.max_steps=20"]`.
    """
    with ThreadPoolExecutor(jobs) as pool:
        # Seed by seed, so that a benchmark that is stopped has whole rows to compare.
        runs = {
            (name, seed): pool.submit(measure, Path(out) / f"{index}_{seed}", seed, switches, size, extra or [])
            for seed in range(seeds)
            for index, (name, switches) in enumerate(ROWS.items())
        }
        scores = {key: run.result() for key, run in runs.items()}
    tasks = WorldTasks(split="test", size=size).tasks()
    names = [task.name for task in tasks]
    chance = {task.name: statistics.mean(len(right) / len(task.candidates) for right in task.qrels) for task in tasks}
    table = [["hit@1, mean ± sd of " + f"{seeds} seeds", "mean of all", *names]]
    for name in ROWS:
        cells = []
        for column in ("", *names):
            values = [scores[name, seed][column] for seed in range(seeds)]
            spread = statistics.stdev(values) if seeds > 1 else 0.0
            cells.append(f"{statistics.mean(values):.2f} ± {spread:.2f}")
        table.append([name, *cells])
    table.append(["chance", *(f"{c:.3f}" for c in (statistics.mean(chance.values()), *chance.values()))])
    table.append(["queries / candidates", "", *(f"{len(task.queries)} / {len(task.candidates)}" for task in tasks)])
    text = markdown(table)
    (Path(out) / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    auto_cli(main)
