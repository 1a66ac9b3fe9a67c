"""What EG-RL adds to a Reasoner that a generic annotator taught, on the built-in world's test split.

    python benchmarks/egrl_world.py                  # the main row, 3 seeds, and searches with its policies
    python benchmarks/egrl_world.py --rows all       # the ablations, the control, and SFT from other teachers as well
    python benchmarks/egrl_world.py --rows all --seeds 1 --bases '[0, 1, 2]'   # other seeds of all three trainings
    python benchmarks/egrl_world.py --teachers perfect --reward outcome_only   # one teacher for the Embedder, no labels
    python benchmarks/egrl_world.py --teachers annotator --reward outcome_only # Embedder and Reasoner have the same one
    python benchmarks/egrl_world.py --smallest true --out /tmp/small           # checks the code alone

Runs the three recipes of `configs/quickstart` one after another: the Embedder, the Reasoner (T-CoTs of the annotator),
and EG-RL from there, once for each row and seed. Every row is ranked by the same frozen Embedder, unless it says
otherwise. What is finished is not repeated: a benchmark that was stopped goes on. Rows whose scores are
there need no models, so that one goes on from `benchmarks/results/egrl_world` on another machine.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import egrl_world_rows as rows_of
import torch
import yaml
from command import embedrl
from egrl_world_measure import CONFIGS, Data, evaluate, link, search
from egrl_world_report import report
from egrl_world_rows import (
    BY_SECOND,
    FIXED,
    PERFECT,
    RAW,
    REWARDED,
    SEARCHES,
    SECOND,
    START,
    TAUGHT,
    TURNS,
    Reward,
    Search,
)
from egrl_world_steps import PAIRS, train_step_model
from egrl_world_turns import take_turns
from jobs import run_jobs
from jsonargparse import auto_cli

from embedrl.evaluation.search_options import SearchOptions
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.inference.step_model import StepModel

QUICKSTART, REWARDS = CONFIGS / "quickstart", CONFIGS / "parts/reward"
SHORT = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--data.init_args.batch_size=4"]
FEW = ["--model.init_args.group_size=2", "--model.init_args.rollout.max_new_tokens=4"]
SMALLEST: dict[str, list[str]] = {
    "embedder": [*SHORT, "--data.init_args.sub_batch_size=2"],
    "reasoner": SHORT,
    "egrl": [*SHORT, *FEW],
    "rollouts": FEW,
    "steps": [*SHORT, "--data.init_args.train.init_args.balanced=false"],
}
"""Recipe → flags that leave as little of its training as there can be."""
EMBEDDER, REASONER = "runs/quickstart_embedder", "runs/quickstart_reasoner"
QUIET = ["--trainer.limit_val_batches", "0"]  # validations and their grids are for people to look at


def train(folder: Path, recipe: str, *flags: str) -> Path:
    """Train a recipe in a folder, unless that is done.

    Returns:
        The model that it left behind.
    """
    model = folder / f"runs/quickstart_{recipe}/model"
    if not (model / "seconds.json").exists():
        start = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        quiet = ["--trainer.enable_progress_bar", "false"]
        embedrl("fit", "--config", str(QUICKSTART / f"{recipe}.yaml"), *quiet, *flags, folder=folder)
        (model / "seconds.json").write_text(json.dumps(round(time.monotonic() - start)))
    return model


@dataclass(frozen=True)
class Bench:
    """One benchmark.

    Attributes:
        out: Where the runs go.
        data: What is measured on.
        flags: Recipe → more flags of its training.
        searches: Ways to search for T-CoTs with the policies of the row `main`, as `SEARCHES` has them.
        main: That row.
        pairs: Pairs a family whose rollouts a step model learns from.
    """

    out: Path
    data: Data
    flags: dict[str, list[str]]
    searches: dict[str, Search]
    main: str
    pairs: int = PAIRS

    def folder(self, name: str, base: int) -> Path:
        """Where a training runs."""
        return self.out / (f"{name}_base_{base}" if base else name)

    def missing(self, row: str, base: int, seed: int) -> bool:
        """Whether some scores of a row are not there yet."""
        searched = [f"{row}, {name}" for name in self.searches] if row == self.main else []
        return not all(self.file(name, f"{base}-{seed}").exists() for name in (row, *searched))

    def train_base(self, recipe: str, base: int) -> None:
        """Train the Embedder or the Reasoner that the other rows begin with; a job of the pool."""
        train(self.folder("base", base), recipe, *QUIET, *seed_of(base), *self.flags[recipe])

    def run(self, row: str, base: int, seed: int) -> None:
        """One row of one seed, trained and measured; a job of the pool."""
        torch.set_num_threads(1)
        runs, file = self.folder("base", base), self.file(row, f"{base}-{seed}")
        embedder = runs / EMBEDDER / "model"
        if row == RAW:
            switch = ["--data.init_args.render.tcot", "none", *QUIET]
            model = train(self.folder("raw", base), "embedder", *seed_of(base), *self.flags["embedder"], *switch)
            evaluate(file, None, model, {RAW: FIXED["raw input"]}, self.data)
        elif row == PERFECT:
            evaluate(file, None, embedder, {PERFECT: LENIENT}, self.data)
        elif row == START:
            evaluate(file, runs / REASONER / "model", embedder, FIXED, self.data)
        elif row == TURNS:
            evaluate(file, *self.turn(base, seed), {TURNS: LENIENT}, self.data)
        elif row == SECOND:
            second = self.second_embedder(base, seed)
            for other, model in ((START, runs / REASONER / "model"), (PERFECT, None)):
                place = self.file(BY_SECOND[other], f"{base}-{seed}")
                evaluate(place, model, second, {BY_SECOND[other]: LENIENT}, self.data)
            evaluate(file, self.rewarded(REWARDED[self.main], base, seed), second, {SECOND: LENIENT}, self.data)
        elif row in TAUGHT:
            evaluate(file, self.taught(TAUGHT[row], base), embedder, {row: LENIENT}, self.data)
        else:
            model = self.rewarded(REWARDED[row], base, seed)
            evaluate(file, model, embedder, {row: LENIENT}, self.data)
            for name, way in self.searches.items() if row == self.main else ():
                place = self.file(f"{row}, {name}", f"{base}-{seed}")
                if not place.exists():
                    steps = {"step_model": self.step_model(model, base, seed)} if way.step_model else {}
                    how = SearchOptions(**way.options, **steps, seed=seed)
                    search(place, f"{row}, {name}", model, embedder, way.mode, how, self.data)

    def file(self, row: str, run: str) -> Path:
        """Where the scores of a run go; a name that Windows takes as well."""
        return self.out / self.data.split / f"{row.replace(':', '')} {run}.json"

    def taught(self, teacher: str, base: int) -> Path:
        """The Reasoner with another teacher, on the same pairs."""
        folder = self.beside(f"sft_{teacher}", base)
        sources = yaml.safe_load((CONFIGS / "parts/sources/world_annotator.yaml").read_text())
        for source in sources:
            source["init_args"]["teacher"] = teacher
        lessons = {"lessons": {"init_args": {"sources": sources}}}
        (folder / "teacher.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"train": {"init_args": lessons}}}}))
        return train(folder, "reasoner", "--config=teacher.yaml", *QUIET, *seed_of(base), *self.flags["reasoner"])

    def rewarded(self, reward: Reward, base: int, seed: int) -> Path:
        """The policy of EG-RL."""
        folder = self.beside(f"{reward.name or reward.preset}_{seed}", base)
        start = self.taught(reward.start, base) if reward.start else self.folder("base", base) / REASONER / "model"
        link(folder / REASONER, start.parent)
        seeds = [f"--{flag}={seed}" for flag in ("seed_everything", "model.init_args.seed", "data.init_args.seed")]
        seeds += [f"--model.init_args.rollout.seed={seed}"]
        rewards = ["--model.init_args.rewards", str(REWARDS / f"{reward.preset}.yaml")]
        return train(folder, "egrl", *seeds, *rewards, *reward.flags, *self.flags["egrl"])

    def step_model(self, policy: Path, base: int, seed: int) -> StepModel:
        """The step model of one of the main row's policies."""
        folder = self.beside(f"steps_{seed}", base)
        link(folder / REASONER, self.folder("base", base) / REASONER)
        link(folder / "runs/quickstart_egrl", policy.parent)
        return train_step_model(folder, self.pairs, self.flags["rollouts"], self.flags["steps"])

    def turn(self, base: int, seed: int) -> tuple[Path, Path]:
        """The policy of EG-RL's second turn, and its Embedder, trained on with the main row's T-CoTs."""
        runs = self.turns(base, seed, "egrl_2")
        return runs / "egrl_2/model", runs / "embedder_1/model"

    def second_embedder(self, base: int, seed: int) -> Path:
        """The Embedder trained on with the main row's T-CoTs, as `configs/quickstart/second_embedder.yaml` does it."""
        return self.turns(base, seed, "embedder_1") / "embedder_1/model"

    def turns(self, base: int, seed: int, last: Literal["embedder_1", "egrl_2"]) -> Path:
        """Take turns up to a stage behind EG-RL's first turn, which is the main row."""
        embedder = self.folder("base", base) / EMBEDDER / "model"
        policy = self.rewarded(REWARDED[self.main], base, seed)
        return take_turns(self.folder(f"turns_{seed}", base), embedder, policy, last)

    def beside(self, name: str, base: int) -> Path:
        """A folder in which the base's Embedder seems to have been trained."""
        folder = self.folder(name, base)
        link(folder / EMBEDDER, self.folder("base", base) / EMBEDDER)
        return folder


def taught_by(teachers: Literal["both", "perfect", "annotator"], folder: Path) -> list[str]:
    """The flags of the Embedder's recipe for whose T-CoTs it learns from; a mix that it takes goes to the folder."""
    if teachers == "perfect":
        return [f"--config={CONFIGS / 'parts/perfect_teacher.yaml'}"]
    if teachers == "both":
        return []
    rows = yaml.safe_load((CONFIGS / "parts/mix/world_two_teachers.yaml").read_text())
    for row in rows:  # the same pairs in other words
        row["source"]["init_args"]["teacher"] = teachers
    mix = folder / f"{teachers}.yaml"
    mix.write_text(yaml.safe_dump(rows))
    return [f"--data.init_args.mix={mix}"]


def seed_of(base: int) -> list[str]:
    """The flags of a training of a base; 0 keeps the recipe's seed."""
    return [f"--seed_everything={base}"] if base else []


def claim(out: Path, setting: dict[str, object]) -> None:
    """Take a folder for runs of one setting.

    Raises:
        SystemExit: If it holds runs of another one.
    """
    file = out / "setting.json"
    if file.exists() and (there := json.loads(file.read_text())) != setting:
        raise SystemExit(f"--out {out}: holds runs of another setting, {there}; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(setting) + "\n")


def main(
    out: str = "runs/egrl_world",
    seeds: int = 3,
    bases: list[int] | None = None,
    jobs: int = 2,
    rows: str | list[str] = "main",
    teachers: Literal["both", "perfect", "annotator"] = "both",
    reward: str = "evidence",
    searched: bool = True,
    split: str = "test",
    size: int = 128,
    flags: list[str] | None = None,
    smallest: bool = False,
) -> None:
    """Run the benchmark; print the tables as Markdown and draw the plot.

    Args:
        out: Where the runs go; `table.md`, `scores.json` and `plot.png` among them.
        seeds: Seeds of EG-RL: order of the pairs, rollouts, what rewards draw.
        bases: Seeds of the Embedder and the SFT Reasoner, each of which has `seeds` runs of EG-RL; None: 0 alone.
        jobs: Runs at a time, one thread each; 1 runs them in this process.
        rows: `main`, `all`, or names of `REWARDED` and `TAUGHT`, or `TURNS`.
        teachers: Whose T-CoTs the Embedder learns from: the quickstart's two, or one. The generic annotator is the
            Reasoner's.
        reward: The preset of the main row.
        searched: Whether T-CoTs are searched for with the main row's policies as well.
        split: `test`; `val` to choose a recipe by; `test2`.
        size: Queries a family.
        flags: More flags of EG-RL's `embedrl fit`, such as `["--trainer.max_steps=20"]`.
        smallest: One seed, two steps of each training, two queries a family; give it an `out` of its own.
    """
    names = {reward.preset: row for row, reward in REWARDED.items() if not (reward.flags or reward.start)}
    if reward not in names:
        raise SystemExit(f"--reward: no {reward!r}; give one of {', '.join(names)}")
    folder = Path(out).resolve()
    seeds, data = (1, Data(split, 2, 8)) if smallest else (seeds, Data(split, size))
    claim(folder, {"teachers": teachers, "flags": flags or [], "smallest": smallest})
    more = {recipe: SMALLEST[recipe] if smallest else [] for recipe in SMALLEST}
    more["embedder"] = [*taught_by(teachers, folder), *more["embedder"]]
    more["egrl"] = [*more["egrl"], *(flags or [])]
    ways = SEARCHES if searched else {}
    if smallest:
        small = {"samples": 2, "branches": 2, "rounds": 1}
        ways = {name: way._replace(options=way.options | small) for name, way in ways.items()}
    bench = Bench(folder, data, more, ways, names[reward], 4 if smallest else PAIRS)
    bases = [0] if bases is None else bases
    # Two steps teach no T-CoTs that a second turn could read.
    chosen = [row for row in rows_of.wanted(rows, bench.main) if row not in (SECOND, TURNS) or not smallest]
    # Seed by seed, so that a benchmark that is stopped has whole rows to compare.
    work = [(row, base, 0) for base in bases for row in (START, PERFECT, RAW)]
    work += [(row, base, seed) for seed in range(seeds) for base in bases for row in chosen]
    work = [(row, base, seed) for row, base, seed in work if row not in TAUGHT or not seed]
    work = [job for job in work if bench.missing(*job)]
    needed = dict.fromkeys(base for _, base, _ in work)
    run_jobs(bench.train_base, [(recipe, base) for base in needed for recipe in ("embedder", "reasoner")], jobs)
    # What several jobs begin with, so that no two train it at once.
    starts = {(REWARDED[row].start, base) for row, base, _ in work if row in REWARDED and REWARDED[row].start}
    run_jobs(bench.taught, sorted(starts), jobs)
    turned = dict.fromkeys((base, seed) for row, base, seed in work if row in (SECOND, TURNS))
    run_jobs(bench.second_embedder, list(turned), jobs)
    run_jobs(bench.run, work, jobs)
    report(folder, split, rows_of.kinds(), (START, bench.main), rows_of.ORDERINGS, 200 if smallest else 10_000)


if __name__ == "__main__":
    auto_cli(main)
