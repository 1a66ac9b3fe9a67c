"""What the options of an Embedder's training change, each beside the plain recipe, on the built-in world's test split.

    python benchmarks/embedder_options.py --out runs/embedder_options

Every row trains from the same base, on the same pairs, with the same number of steps; rows of one seed draw the same
batches. The negatives and scores come from one teacher, the plain recipe trained for longer. What is finished is not
repeated, so a benchmark that was stopped goes on; its table says how many seeds each row has.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import auto_cli
from markdown_table import markdown
from timing import machine

from embedrl.cli import main as embedrl

CONFIGS = Path(__file__).parents[1] / "configs"
PARTS = CONFIGS / "parts/loss"
FAMILIES = ("vqa", "t2i", "i2t", "composed")
FORMS: dict[str, list[str]] = {
    "float32": [],
    "first 64": ["--dim", "64"],
    "first 32": ["--dim", "32"],
    "first 16": ["--dim", "16"],
    "int8": ["--vectors", "int8"],
    "binary": ["--vectors", "binary"],
    "binary, best 20 scored again": ["--vectors", "binary", "--rescore", "20"],
}
"""How vectors are stored, and the flags of `embedrl eval`."""
SIZES = (512, 256, 128, 64, 128, 16, 16)  # bytes
PLAIN, MATRYOSHKA, MERGED = "plain recipe", "Matryoshka 16, 32, 64", "two seeds of the plain recipe, merged"
INT8, BINARY = "int8-aware", "binary-aware"
STORED = {PLAIN: [*FORMS], MATRYOSHKA: [*FORMS][:4], INT8: ["float32", "int8"], BINARY: ["float32", *[*FORMS][5:]]}
"""Rows whose vectors are also stored in other forms, and in which."""

Scores = dict[str, dict[str, float]]
"""hit@1 by form and family."""


@dataclass(frozen=True)
class Setting:
    """How large the benchmark is.

    Attributes:
        steps: Optimizer steps of each run.
        teacher_steps: Optimizer steps of the teacher.
        pairs: Training pairs of each family.
        queries: Test queries of each family.
        batch: Pairs in a batch.
    """

    steps: int = 40
    teacher_steps: int = 200
    pairs: int = 256
    queries: int = 96
    batch: int = 16


SMALLEST = Setting(steps=2, teacher_steps=2, pairs=12, queries=12, batch=8)


@dataclass(frozen=True)
class Option:
    """A row.

    Attributes:
        loss: A part of `configs/parts/loss`, or a loss as YAML would have it.
        negatives: Mined negatives of each pair that are read; they make a step slower.
    """

    loss: str | dict[str, Any] = "info_nce"
    negatives: int = 0


def _beside(name: str, weight: float) -> dict[str, Any]:
    """InfoNCE and another part, added up."""
    parts = [yaml.safe_load((PARTS / f"{one}.yaml").read_text()) for one in ("info_nce", name)]
    return {"class_path": "embedrl.losses.WeightedSum", "init_args": {"losses": parts, "weights": [1.0, weight]}}


OPTIONS: dict[str, Option] = {
    PLAIN: Option(),
    "false-negative margin": Option("false_negative_margin"),
    "extra negatives, with the margin": Option("qwen3_vl_embedding"),
    "hardness 9": Option("hardness"),
    "sigmoid": Option("sigmoid"),
    MATRYOSHKA: Option("matryoshka"),
    INT8: Option("int8"),
    BINARY: Option("binary"),
    "2 mined negatives": Option(negatives=2),
    "2 mined negatives, distillation": Option("distillation", 2),
    "2 mined negatives, CoSENT beside InfoNCE": Option(_beside("cosent", 1.0), 2),
}


def run(*words: object) -> None:
    """Run a command in this process.

    Raises:
        RuntimeError: If it fails.
    """
    if embedrl([str(word) for word in words]):
        raise RuntimeError(f"embedrl {' '.join(map(str, words))} failed")


def train(out: Path, mix: str, option: Option, seed: int, steps: int, setting: Setting) -> Path:
    """Train one run, unless it is there.

    Returns:
        The folder of its model.
    """
    model = out / "model"
    if not model.exists():
        loss = option.loss if isinstance(option.loss, dict) else str(PARTS / f"{option.loss}.yaml")
        export = [{"class_path": "embedrl.training.ExportModel", "init_args": {"out": str(model)}}]
        values: dict[str, object] = {
            **dict.fromkeys(("seed_everything", "model.init_args.seed", "data.init_args.seed"), seed),
            "trainer.max_steps": steps,
            "trainer.limit_val_batches": 0,
            "trainer.enable_progress_bar": False,
            "trainer.enable_checkpointing": False,
            "trainer.default_root_dir": out,
            "trainer.callbacks": json.dumps(export),
            "model.init_args.loss": json.dumps(loss) if isinstance(loss, dict) else loss,
            "model.init_args.warmup_steps": min(10, steps),
            "data.init_args.mix": mix,
            "data.init_args.batch_size": setting.batch,
            "data.init_args.sub_batch_size": setting.batch // 2,
            "data.init_args.max_negatives": option.negatives,
            "data.init_args.render.tcot": "answer_only",
            "data.init_args.render.on_bad_tcot": "raise",  # T-CoTs are the perfect teacher's
        }
        flags = [
            f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()
        ]
        run("fit", "--config", CONFIGS / "quickstart/embedder.yaml", *flags)
    return model


def backbone(model: Path) -> str:
    """The tiny Qwen3-VL of a folder, as a flag's value."""
    part = yaml.safe_load((CONFIGS / "parts/backbone/quickstart_embedder.yaml").read_text())
    part["init_args"]["path"] = str(model)
    return json.dumps(part)


def mine(out: Path, setting: Setting) -> str:
    """Train the teacher, and let it find negatives and score them; unless they are there.

    Returns:
        The mix that all rows train on.
    """
    world = [
        {"source": {"class_path": "embedrl.data.world.WorldSource", "init_args": {"family": family, **more}}}
        for more in [{"size": setting.pairs, "teacher": "perfect"}]
        for family in FAMILIES
    ]
    mix = out / "mined/mix.yaml"
    if not mix.exists():
        teacher = train(out / "teacher", json.dumps(world), Option(), 100, setting.teacher_steps, setting)
        flags = ["--mix", json.dumps(world), "--backbone", backbone(teacher), "--render.tcot", "answer_only"]
        run("mine", "--out", mix.parent, *flags)
    return str(mix)


def merge(models: Sequence[Path], out: Path) -> Path:
    """Merge models with equal weights, unless it is done."""
    if not out.exists():
        run("merge", "--models", json.dumps([str(model) for model in models]), "--out", out)
    return out


def score(model: Path, out: Path, forms: Sequence[str], setting: Setting) -> Scores:
    """hit@1 of a model's vectors in every form, on the test split; what is there is not computed again."""
    file = out / "scores.json"
    scores: Scores = json.loads(file.read_text()) if file.exists() else {}
    tasks = {"split": "test", "size": setting.queries, "families": FAMILIES}
    flags = {
        "tasks": json.dumps([{"class_path": "embedrl.data.world.WorldTasks", "init_args": tasks}]),
        "backbone": backbone(model),
        "render.tcot": "answer_only",
    }
    for form in [form for form in forms if form not in scores]:
        given = [f"--{name}={value}" for name, value in flags.items()]
        run("eval", "--config", CONFIGS / "eval/world.yaml", *given, "--out", out / "eval", *FORMS[form])
        report = json.loads((out / "eval/report.json").read_text())
        key = "stored" if FORMS[form] else "metrics"
        scores[form] = {result["name"]: result[key]["hit@1"] for result in report["sets"]}
        file.write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def tables(scores: dict[str, list[Scores]]) -> str:
    """Two tables: what the options change, and what shorter and smaller vectors cost.

    Args:
        scores: Of each row, those of its seeds, from the first on.
    """
    plain = [_mean(seed["float32"]) for seed in scores[PLAIN]]
    parents = [(first + second) / 2 for first, second in combinations(plain, 2)]
    options = [
        ["hit@1 of whole float32 vectors", "mean of the families", "beside the plain recipe", *FAMILIES, "seeds"]
    ]
    for name, seeds in scores.items():
        means = [_mean(seed["float32"]) for seed in seeds]
        before = parents if name == MERGED else plain
        change = "" if name == PLAIN else _spread([a - b for a, b in zip(means, before, strict=False)], "+.3f")
        cells = [_spread([seed["float32"][family] for seed in seeds], ".2f") for family in FAMILIES]
        options.append([name, _spread(means, ".3f"), change, *cells, str(len(seeds))])
    forms = [["hit@1, mean of the families", *FORMS], ["bytes a vector", *(str(size) for size in SIZES)]]
    for name, measured in STORED.items():
        means = {form: [_mean(seed[form]) for seed in scores.get(name, ())] for form in measured}
        forms.append([name, *(_spread(means.get(form, ()), ".3f") for form in FORMS)])
    return "\n\n".join(markdown(rows) for rows in (options, forms))


def _mean(values: dict[str, float]) -> float:
    return statistics.mean(values[family] for family in FAMILIES)


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    text = f"{statistics.mean(values):{form}}"
    return f"{text} ± {statistics.stdev(values):{form.removeprefix('+')}}" if len(values) > 1 else text


def main(out: Path = Path("runs/embedder_options"), seeds: int = 3, smallest: bool = False) -> None:
    """Run the benchmark and write the tables as Markdown, after every row.

    Args:
        out: Where the runs, `embedder_options.md` and `embedder_options.json` go.
        seeds: Seeds of the data's order and of the training.
        smallest: Two steps a run, to try it out.
    """
    setting = SMALLEST if smallest else Setting()
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "setting.json").exists() and json.loads((out / "setting.json").read_text()) != asdict(setting):
        raise SystemExit(f"--out {out}: holds runs of another setting; give a new folder")
    (out / "setting.json").write_text(json.dumps(asdict(setting)) + "\n")
    mix = mine(out, setting)
    scores: dict[str, list[Scores]] = {name: [] for name in (*OPTIONS, MERGED)}
    for seed in range(seeds):
        for name, option in OPTIONS.items():
            folder = out / f"{seed}_{slug(name)}"
            model = train(folder, mix, option, seed, setting.steps, setting)
            scores[name].append(score(model, folder, STORED.get(name, ["float32"]), setting))
            for earlier in range(seed if name == PLAIN else 0):
                place = out / f"{earlier}{seed}_{slug(MERGED)}"
                both = merge([out / f"{one}_{slug(PLAIN)}/model" for one in (earlier, seed)], place / "model")
                scores[MERGED].append(score(both, place, ["float32"], setting))
            write(out, scores, setting)
    print(write(out, scores, setting))


def slug(name: str) -> str:
    """A row's name as part of a folder's."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def write(out: Path, scores: dict[str, list[Scores]], setting: Setting) -> str:
    """Write what there is so far; returns the tables."""
    there = {name: seeds for name, seeds in scores.items() if seeds}
    text = tables(there)
    content = {"setting": asdict(setting), "families": FAMILIES, "machine": machine(), "scores": there}
    (out / "embedder_options.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "embedder_options.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
