"""What EG-RL adds to a Reasoner that a generic annotator taught, on the built-in world's test split.

    python benchmarks/egrl_world.py                  # the main row, 3 seeds, and all rows that need no training
    python benchmarks/egrl_world.py --rows all       # the ablations and the control as well
    python benchmarks/egrl_world.py --smallest true --out /tmp/small   # checks the code alone

Runs the three recipes of `configs/quickstart` one after another: the Embedder (T-CoTs of the perfect teacher), the
Reasoner (T-CoTs of the annotator), and EG-RL from there, once for each row and seed. Every row is ranked by the same
frozen Embedder, unless it says otherwise. What is finished is not repeated, so a benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from command import embedrl
from jsonargparse import ArgumentParser, auto_cli

from embedrl.data.render import RenderOptions
from embedrl.data.world import WorldTasks
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder
from embedrl.inference.tcot_writer import write_tcots
from embedrl.metrics.replies import f1, matched_iou
from embedrl.models.backbone import Backbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.tcot.parser import parse
from embedrl.types import Modality, RetrievalTask, Side

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
QUICKSTART, REWARDS = CONFIGS / "quickstart", CONFIGS / "parts/reward"
TEACHERS: dict[str, list[str]] = {"both": [], "perfect": [f"--config={CONFIGS / 'parts/perfect_teacher.yaml'}"]}
"""Whose T-CoTs the Embedder learns from → flags of its recipe."""
MAIN = "EG-RL"
TRAINED: dict[str, str] = {
    MAIN: "outcome_only",
    "EG-RL, with the process reward": "paper",
    "EG-RL, process and format alone": "process_only",
    "EG-RL, uniform negatives": "uniform_negatives",
    "EG-RL, with step credit": "step_credit",
    "EG-RL, with counterfactual evidence": "counterfactual",
    "EG-RL, with verifiable evidence (supervised)": "evidence",
    "control: rewards permuted": "permuted",
}
"""Rows of EG-RL: name → reward preset."""
FIXED: dict[str, RenderOptions] = {
    "raw input": replace(LENIENT, tcot="none"),
    "SFT T-CoT, answer only": replace(LENIENT, tcot="answer_only"),
    "SFT T-CoT, without cues": replace(LENIENT, cues="off"),
    "SFT T-CoT": LENIENT,
}
"""Rows of the Reasoner as SFT left it: name → what the Embedder sees of its T-CoTs."""
RAW, PERFECT = "raw input, Embedder trained on it", "perfect teacher"
SHORT = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--data.init_args.batch_size=4"]
SMALLEST: dict[str, list[str]] = {
    "embedder": [*SHORT, "--data.init_args.sub_batch_size=2"],
    "reasoner": SHORT,
    "egrl": [*SHORT, "--model.init_args.group_size=2", "--model.init_args.rollout.max_new_tokens=4"],
}
"""Recipe → flags that leave as little of its training as there can be."""
EVIDENCE = ("format", "answer", "iou", "f1", "keyword_f1")


def train(folder: Path, recipe: str, *flags: str) -> Path:
    """Train a recipe in a folder, unless that is done.

    Returns:
        The checkpoint that it left behind.
    """
    model = folder / f"runs/quickstart_{recipe}/model"
    if not (model / "seconds.json").exists():
        start = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        quiet = ["--trainer.enable_progress_bar", "false"]
        embedrl("fit", "--config", str(QUICKSTART / f"{recipe}.yaml"), *quiet, *flags, folder=folder)
        (model / "seconds.json").write_text(json.dumps(round(time.monotonic() - start)))
    return model


def load_embedder(model: Path) -> Backbone:
    """The Embedder that a run left behind, as EG-RL's recipe reads it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    part = yaml.safe_load((CONFIGS / "parts/backbone/quickstart_embedder.yaml").read_text())
    part["init_args"]["path"] = str(model)
    backbone: Backbone = parser.instantiate(parser.parse_object({"backbone": part})).backbone
    return backbone


def score(tasks: Sequence[RetrievalTask], embedder: FrozenEmbedder) -> dict[str, list[float]]:
    """For every task, 0 or 1 a query: whether a right candidate comes first."""
    results = embedder.score(tasks, torch.device("cpu"))
    return {r.task.name: (r.ranking.relevance[:, 0] > 0).float().tolist() for r in results}


def evidence_means(tasks: Sequence[RetrievalTask], gold: Sequence[RetrievalTask]) -> dict[str, float]:
    """What `EVIDENCE` names: means over all sides of how their T-CoTs compare with the perfect teacher's."""
    found: dict[str, list[float]] = defaultdict(list)
    for task, perfect in zip(tasks, gold, strict=True):
        for side, right in zip([*task.queries, *task.candidates], [*perfect.queries, *perfect.candidates], strict=True):
            for name, value in evidence(side, right).items():
                found[name].append(value)
    return {name: statistics.mean(values) for name, values in found.items()}


def evidence(side: Side, right: Side) -> dict[str, float]:
    """How a side's T-CoT compares with the perfect teacher's."""
    frames = len(side.frames) or None
    read, gold = parse(side.tcot, side.modality, frames), parse(right.tcot, right.modality, frames).tcot
    cues = read.tcot.cues
    figures = {"format": float(read.ok), "answer": float(read.tcot.answer.strip() == gold.answer.strip())}
    if side.modality is Modality.TEXT:
        return figures | {"keyword_f1": f1(set(cues.text_keywords), set(gold.cues.text_keywords))}
    if side.modality is Modality.VIDEO:
        return figures | {"f1": f1(set(cues.key_frames), set(gold.cues.key_frames))}
    return figures | {"iou": matched_iou(cues.boxes, gold.cues.boxes)}


def evaluate(
    file: Path, model: Path | None, embedder: Path, rows: dict[str, RenderOptions], split: str, size: int
) -> None:
    """Write the scores of a Reasoner's T-CoTs (None: the perfect teacher's) to a JSON file, unless they are there."""
    if file.exists():
        return
    recipe = yaml.safe_load((QUICKSTART / "egrl.yaml").read_text())
    [families] = [
        source["init_args"]["families"]
        for callback in recipe["trainer"]["callbacks"]
        for source in callback.get("init_args", {}).get("tasks", [])
    ]
    gold = WorldTasks(split=split, size=size, families=families).tasks()  # type: ignore[arg-type]  # a flag
    tasks: Sequence[RetrievalTask] = gold
    if model is not None:
        generator = QwenVLReasoner(str(model))
        generator.build()
        tasks = write_tcots(gold, generator, torch.device("cpu"), style="brief", batch_size=64, max_new_tokens=96)
    figures, backbone = evidence_means(tasks, gold), load_embedder(embedder)
    scores = {
        name: {"hits": score(tasks, FrozenEmbedder(backbone, render)), **figures} for name, render in rows.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(scores))


def run(out: Path, row: str, seed: int, split: str, size: int, flags: dict[str, list[str]]) -> None:
    """One training and what it scores; a job of the pool."""
    torch.set_num_threads(1)
    base, file = out / "base", out / split / f"{row} {seed}.json"
    embedder = base / "runs/quickstart_embedder/model"
    if row == RAW:
        switch = ["--data.init_args.render.tcot", "none", "--trainer.limit_val_batches", "0"]
        model = train(out / "raw", "embedder", *switch, *flags["embedder"])
        evaluate(file, None, model, {RAW: FIXED["raw input"]}, split, size)
    elif row == PERFECT:
        evaluate(file, None, embedder, {PERFECT: LENIENT}, split, size)
    elif row == "SFT":
        evaluate(file, base / "runs/quickstart_reasoner/model", embedder, FIXED, split, size)
    else:
        folder = out / f"{TRAINED[row]}_{seed}"
        for name in ("embedder", "reasoner"):
            link = folder / f"runs/quickstart_{name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((base / f"runs/quickstart_{name}").resolve())
        seeds = [f"--{flag}={seed}" for flag in ("seed_everything", "model.init_args.seed", "data.init_args.seed")]
        seeds += [f"--model.init_args.rollout.seed={seed}"]
        rewards = ["--model.init_args.rewards", str(REWARDS / f"{TRAINED[row]}.yaml")]
        model = train(folder, "egrl", *seeds, *rewards, *flags["egrl"])
        evaluate(file, model, embedder, {row: LENIENT}, split, size)


def main(
    out: str = "runs/egrl_world",
    seeds: int = 3,
    jobs: int = 2,
    rows: str = "main",
    teachers: Literal["both", "perfect"] = "both",
    split: str = "test",
    size: int = 128,
    flags: list[str] | None = None,
    smallest: bool = False,
) -> None:
    """Run the benchmark; print the table as Markdown and draw the plot.

    Args:
        out: Where the runs go; `table.md`, `scores.json` and `plot.png` among them.
        seeds: Seeds of EG-RL: order of the pairs, rollouts, what rewards draw.
        jobs: Runs at a time, one thread each.
        rows: `main`, `all`, or one name of `TRAINED`.
        teachers: Whose T-CoTs the Embedder learns from.
        split: `test`; `val` to choose a recipe by.
        size: Queries a family.
        flags: More flags of EG-RL's `embedrl fit`, such as `["--trainer.max_steps=20"]`.
        smallest: One seed, two steps of each training, two queries a family; give it an `out` of its own.
    """
    folder = Path(out).resolve()
    seeds, size = (1, 2) if smallest else (seeds, size)
    more = {recipe: SMALLEST[recipe] if smallest else [] for recipe in SMALLEST}
    more["embedder"] = [*TEACHERS[teachers], *more["embedder"]]
    more["egrl"] = [*more["egrl"], *(flags or [])]
    for recipe in ("embedder", "reasoner"):
        # The grids and the validations of these two are for people to look at.
        train(folder / "base", recipe, "--trainer.limit_val_batches", "0", *more[recipe])
    wanted = [MAIN] if rows == "main" else list(TRAINED) if rows == "all" else [rows]
    # Seed by seed, so that a benchmark that is stopped has whole rows to compare.
    work = [(row, seed) for seed in range(seeds) for row in wanted] + [("SFT", 0), (PERFECT, 0), (RAW, 0)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(run, folder, row, seed, split, size, more) for row, seed in work]:
            job.result()
    report(folder, split)


# ---------------------------------------------------------------- the report


def report(folder: Path, split: str) -> None:
    """Write table, figures and plot of every row there is."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted((folder / split).glob("*.json")):
        for name, scores in json.loads(file.read_text()).items():
            found[name].append(scores)
    order = ["raw input", RAW, *[n for n in FIXED if n != "raw input"], *TRAINED, PERFECT]
    rows = {name: [flat(scores) for scores in found[name]] for name in order if name in found}
    start = rows["SFT T-CoT"][0]
    columns = [name for name in start if name not in EVIDENCE]
    table = [["", *columns], ["---"] * (len(columns) + 1)]
    table += [[name, *(cell([r[c] for r in runs]) for c in columns)] for name, runs in rows.items()]
    words = [["", *EVIDENCE], ["---"] * (len(EVIDENCE) + 1)]
    words += [
        [name, *(cell([r[c] for r in runs]) for c in EVIDENCE)]
        for name, runs in rows.items()
        if name in ("SFT T-CoT", *TRAINED, PERFECT)
    ]
    gains = [["gain on SFT", "hit@1", *EVIDENCE], ["---"] * (len(EVIDENCE) + 2)]
    for name in TRAINED:
        if name in rows:
            cells = [cell([r[c] - start[c] for r in rows[name]], "+.3f") for c in ("hit@1", *EVIDENCE)]
            gains.append([f"{name} ({len(rows[name])} seeds)", *cells])
    text = "\n\n".join("\n".join("| " + " | ".join(row) + " |" for row in part) for part in (table, words, gains))
    (folder / "table.md").write_text(text + "\n")
    (folder / "scores.json").write_text(json.dumps(rows, indent=1))
    print(text)
    plot(folder / "plot.png", rows)


def flat(scores: dict[str, Any]) -> dict[str, float]:
    """`hit@1`: the mean over families; each family's; and what `EVIDENCE` names."""
    families = {name: statistics.mean(hits) for name, hits in scores["hits"].items()}
    return {
        "hit@1": statistics.mean(families.values()), **families, **{n: scores[n] for n in EVIDENCE if n in scores}
    }  # fmt: skip


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean over seeds (Student's t); NaN of one value."""
    if len(values) < 2:
        return math.nan
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}.get(len(values), 2.447)
    return t * statistics.stdev(values) / math.sqrt(len(values))


def cell(values: Sequence[float], form: str = ".3f") -> str:
    """Mean ± half interval."""
    half = interval(values)
    return f"{statistics.mean(values):{form}}" + ("" if math.isnan(half) else f" ± {half:.3f}")


def plot(file: Path, rows: dict[str, list[dict[str, float]]]) -> None:
    """Bars of hit@1 and box IoU."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(14, 0.45 * len(rows) + 1.4))
    names = list(rows)[::-1]
    for axis, (column, title) in zip(axes, (("hit@1", "hit@1, mean of the families"), ("iou", "box IoU")), strict=True):
        kept = [n for n in names if column == "hit@1" or n in ("SFT T-CoT", *TRAINED, PERFECT)]
        means = [statistics.mean(r[column] for r in rows[n]) for n in kept]
        errors = [0.0 if math.isnan(e := interval([r[column] for r in rows[n]])) else e for n in kept]
        colors = ["tab:orange" if n in TRAINED else "tab:blue" for n in kept]
        axis.barh(kept, means, xerr=errors, color=colors, capsize=3)
        for name, mean, error in zip(kept, means, errors, strict=True):
            axis.text(mean + error + 0.01, name, f"{mean:.3f}", va="center", fontsize=8)
        axis.set(title=title, xlim=(0, 1.15))
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    auto_cli(main)
