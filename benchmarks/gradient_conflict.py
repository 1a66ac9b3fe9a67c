"""Whether the contrastive loss and the cross-entropy pull one model apart, in the world's unified training.

    python benchmarks/gradient_conflict.py                       # minutes a seed on one core
    python benchmarks/gradient_conflict.py --smallest true --out /tmp/small   # checks the code alone

Trains `configs/world/ume_r1_sft.yaml` as it is, measures by layer the cosine of both losses' gradients every so many
steps (`model.gradient_conflict_every`), and draws them over the training. What is measured is not trained again: with
what lies in `benchmarks/results/gradient_conflict` copied to `--out`, only the report is made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from command import embedrl
from jobs import run_jobs
from jsonargparse import auto_cli
from markdown_table import markdown
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl.utils.atomic_files import replacing

RECIPE = Path(__file__).resolve().parents[1] / "configs/world/ume_r1_sft.yaml"
TAG = "train/conflict/"
Cosines = dict[str, list[tuple[int, float]]]
"""Layer → steps and cosines."""


def measure(out: Path, seed: int, every: int, flags: Sequence[str]) -> None:
    """Train one seed and write its cosines, unless they are there; a job of the pool."""
    if (file := out / f"cosines {seed}.json").exists():
        return
    runs = out / f"seed {seed}"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    measured = ["--model.gradient_conflict_every", str(every), "--trainer.limit_val_batches", "0"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", "[]"]
    embedrl("fit", f"--config={RECIPE}", f"--seed_everything={seed}", *measured, *quiet, *flags, folder=runs)
    found: Cosines = {}
    for path in sorted(runs.rglob("events.out.tfevents*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith(TAG):
                found.setdefault(tag.removeprefix(TAG), []).extend((e.step, e.value) for e in events.Scalars(tag))
    with replacing(file) as part:
        part.write_text(json.dumps(found))


def table(found: Mapping[str, Cosines]) -> str:
    """By layer: the mean cosine of the first and of the last third of the steps, and how often it is below 0."""
    rows = [["", "first third of the steps", "last third", "below 0, % of measurements"]]
    for layer in next(iter(found.values())):
        runs = [[value for _, value in cosines[layer]] for cosines in found.values()]
        third = max(1, len(runs[0]) // 3)
        every = [value for run in runs for value in run]
        first, last = (mean(mean(run[part]) for run in runs) for part in (slice(third), slice(-third, None)))
        rows.append([f"`{layer}`", f"{first:+.2f}", f"{last:+.2f}", f"{100 * mean(v < 0 for v in every):.0f}"])
    return markdown(rows) + "\n"


def plot(path: Path, found: Mapping[str, Cosines]) -> None:
    """Draw each layer's cosine over the steps: the mean of the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.4, 4.4), layout="constrained")
    layers = [name for name in next(iter(found.values())) if name != "mean"]
    for number, layer in enumerate(layers):
        runs = [cosines[layer] for cosines in found.values()]
        steps, means = [step for step, _ in runs[0]], [mean(v for _, v in at) for at in zip(*runs, strict=True)]
        whole = layer == "all"
        axes.plot(
            steps, means, label="all weights" if whole else layer, color="black" if whole else f"C{number}",
            linewidth=2.5 if whole else 1.2, marker=".",
        )  # fmt: skip
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(
        xlabel="optimizer step", ylabel="cosine of the two gradients", title="InfoNCE and cross-entropy, one model"
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(
    out: str = "runs/gradient_conflict", seeds: int = 1, jobs: int = 2, every: int = 10, smallest: bool = False
) -> None:
    """Run the benchmark; print the table as Markdown and draw the plot.

    Args:
        out: Where the runs go; `table.md` and `plot.png` among them.
        seeds: Seeds of the training.
        jobs: Trainings at a time, one thread each.
        every: Steps from one measurement to the next, a multiple of the recipe's `trainer.log_every_n_steps` (5).
        smallest: One seed, ten steps of small batches.
    """
    folder = Path(out).resolve()
    short = ["--trainer.max_steps=10", "--data.init_args.batch_size=4", "--data.init_args.sub_batch_size=2"]
    seeds, every, flags = (1, 5, short) if smallest else (seeds, every, [])
    run_jobs(measure, [(folder, seed, every, flags) for seed in range(seeds)], jobs)
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("cosines *.json"))}
    text = table(found)
    (folder / "table.md").write_text(text, encoding="utf-8")
    plot(folder / "plot.png", found)
    print(text)


if __name__ == "__main__":
    auto_cli(main)
