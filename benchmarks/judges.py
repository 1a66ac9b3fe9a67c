"""What judges of the process reward are worth on a policy's own rollouts, on the built-in world.

    python benchmarks/judges.py                     # after the three recipes of configs/quickstart
    python benchmarks/judges.py --size smallest     # seconds, with the models of the package

Rolls out the policy on blocks of pairs whose answers are alike, as EG-RL's quickstart does, then asks every judge in
every form. By family: right answers beside chance; whether an answer follows its candidate when the list is rotated;
how the process reward goes with the outcome's margin and how much it differs inside a group; and what it pays for
truth: the mean reward of rollouts whose answer is the world's, less that of the others, in groups that have both. The
same of the advantages that whole lists of rewards give, in which a process reward stands beside the outcome.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentParser, auto_cli
from timing import report

from embedrl.data.opened import open_pairs
from embedrl.data.world import WorldSource, needs
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.advantages import group_advantages
from embedrl.rl.judge_check import Rotated, check_judge, in_several_orders
from embedrl.rl.rewards.checkpoint_judge import CheckpointJudge
from embedrl.rl.rewards.combine import RewardRow, total_rewards
from embedrl.rl.rewards.comparison import compare_roles, margins
from embedrl.rl.rewards.judge import Judge, Question, Verdict
from embedrl.rl.rewards.process import ProcessReward
from embedrl.rl.rewards.questions import QuestionOptions, choose_candidates
from embedrl.rl.rewards.text_judge import TextEmbedderJudge
from embedrl.rl.rollout import LocalRollout, RolloutOptions
from embedrl.rl.step import make_prompts, make_step, roll_out
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.prompts import Style
from embedrl.types import Role

FAMILIES = ("vqa", "t2i", "composed", "grounding", "video_qa")
CPU = torch.device("cpu")
PAPER: dict[str, Any] = {"candidates": "rollout", "positives": "all"}
GROUP: dict[str, Any] = {"candidates": "group", "positives": "one"}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "rollout, hit": ("hit", {"candidates": "rollout", "positives": "one"}),
    "group, hit": ("hit", GROUP),
    "group, probability": ("probability", GROUP),
    "group, probability, no twins": ("probability", {**GROUP, "drop_twins": True}),
}
"""Forms of the question with five candidates: name → `form`, and what is asked."""
REWARDS = Path(__file__).resolve().parents[1] / "configs/parts/reward"
PRESETS = ("outcome_only", "text_judge_code_weights", "text_judge")
"""Lists of rewards without the reference judge."""
STD_FLOOR = 0.1  # of the quickstart's EG-RL


class Remembering:
    """A judge that is asked each question once: forms that differ in what they pay ask the same ones."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.name = judge, judge.name
        self.verdicts: dict[tuple[str, str], Verdict] = {}

    def choose(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `Judge`."""
        new = {(q.anchor, q.prompt): q for q in questions if (q.anchor, q.prompt) not in self.verdicts}
        self.verdicts |= zip(new, self.judge.choose([*new.values()]), strict=True)
        return [self.verdicts[q.anchor, q.prompt] for q in questions]


def make_steps(reasoner: str, embedder: str, families: Sequence[str], pairs: int, group: int) -> dict[str, RolloutStep]:
    """One step of rollouts for each family, with vectors, as EG-RL's quickstart makes them."""
    policy = QwenVLReasoner(reasoner, max_length=2048)
    policy.build()
    policy.eval()
    evidence, pixels = PixelBudget(2304, 6912), PixelBudget(1024, 2304)
    reader = QwenVLBackbone(embedder, None, False, pixels, evidence, PixelBudget(1024, 1024), max_length=512)
    frozen = FrozenEmbedder(reader)
    engine = LocalRollout(policy, RolloutOptions(max_new_tokens=96, top_p=0.9, max_sequences=128, seed=0))
    steps = {}
    for number, family in enumerate(families):
        source = WorldSource(family, teacher="none", alike=4, seed=1)  # pairs that no training drew
        drawn = [source[i] for i in range(pairs)]
        prompts = make_prompts(open_pairs(drawn), 0, "brief", policy.preprocessor())
        with torch.no_grad():
            rollouts = roll_out(engine, prompts, group, number)
            steps[family] = make_step(drawn, prompts, rollouts, frozen, CPU, number)
    return steps


def truthful(step: RolloutStep) -> dict[str, bool]:
    """Whether the answer of each rollout is the world's."""
    right = {i: needs(pair.id) for i, pair in enumerate(step.pairs)}
    return {
        r.id: " ".join(step.parsed[r.id].tcot.answer.split()) == right[r.pair][r.role is Role.TARGET].answer
        for r in step.rollouts
    }


def by_group(step: RolloutStep, values: dict[str, float]) -> list[list[Rollout]]:
    """The rollouts that have a value, by group."""
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in step.rollouts:
        if rollout.id in values:
            groups[rollout.group].append(rollout)
    return [group for group in groups.values() if len(group) > 1]


def inside_groups(step: RolloutStep, values: dict[str, float]) -> dict[str, float | str]:
    """How a reward varies inside groups, and with what."""
    margin: dict[str, float] = {}
    for role in Role:
        comparison = compare_roles(step, role, True)
        ids = [anchor.id for anchor in comparison.anchors]
        margin |= dict(zip(ids, margins(comparison, 0.5, "softmax").tolist(), strict=True))
    true = truthful(step)
    spread, mine, theirs, paid = [], [], [], []
    for group in by_group(step, values):
        own = [values[r.id] for r in group]
        outcome = [margin[r.id] for r in group]
        spread.append(statistics.pstdev(own))
        mine += [value - statistics.fmean(own) for value in own]
        theirs += [value - statistics.fmean(outcome) for value in outcome]
        told = [value for r, value in zip(group, own, strict=True) if true[r.id]]
        rest = [value for r, value in zip(group, own, strict=True) if not true[r.id]]
        if told and rest:
            paid.append(statistics.fmean(told) - statistics.fmean(rest))
    varies = any(mine) and any(theirs)
    return {
        "std in a group": statistics.fmean(spread) if spread else "",
        "correlation with the margin": statistics.correlation(mine, theirs) if varies else "",
        "paid for truth": statistics.fmean(paid) if paid else "",
    }


def rotated(step: RolloutStep, family: str, style: Style, count: int, asked: dict[str, Any]) -> list[Rotated]:
    """Some of the questions on a step's rollouts, each in three orders."""
    options = QuestionOptions(4, asked["candidates"], asked["positives"], False)
    chosen = [a for role in Role for a in choose_candidates(step, compare_roles(step, role, True), options)]
    chosen = [a for a in chosen if a.candidates][:: max(1, len(chosen) // count)]
    return [
        in_several_orders(
            family, a.candidates, a.right, 3, lambda order, a=a: replace(a, candidates=order).question(step, style)
        )
        for a in chosen
    ]


def measure(
    policy: str, steps: dict[str, RolloutStep], judges: dict[str, tuple[Judge, Style]], paper: str
) -> list[dict[str, Any]]:
    """The rows of one policy.

    Args:
        policy: Its name.
        steps: Its rollouts by family.
        judges: The judges, each with the style of question that it knows.
        paper: The judge that is asked in the paper's form too.
    """
    rows: list[dict[str, Any]] = []
    for name, (asked_judge, style) in judges.items():
        judge = Remembering(asked_judge)
        forms = FORMS | ({"paper": ("hit", PAPER)} if name == paper else {})
        for form, (pays, asked) in forms.items():
            for family, step in steps.items():
                reward = ProcessReward(judge, form=pays, style=style, max_failures=0.99, **asked)  # type: ignore[arg-type]
                result = reward(step)
                values = {r: v for r, v in result.values.items() if v is not None}
                row = {"policy": policy, "judge": name, "form": form, "family": family}
                row |= {"right": result.metrics.get("hit", ""), "chance": result.metrics.get("chance", "")}
                row |= inside_groups(step, values) | {"follows": ""}
                if form == "group, hit":
                    scores = check_judge(judge, rotated(step, family, style, 24, asked))
                    row["follows"] = scores[-1].follows
                rows.append(row)
    return rows


def load_rewards(preset: str) -> list[RewardRow]:
    """A list of rewards, as EG-RL's recipe reads it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rewards", type=list[RewardRow])
    listed = yaml.safe_load((REWARDS / f"{preset}.yaml").read_text())
    rows: list[RewardRow] = parser.instantiate(parser.parse_object({"rewards": listed})).rewards
    return rows


def measure_totals(policy: str, steps: dict[str, RolloutStep], presets: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one policy: what the advantages of lists of rewards pay."""
    rows: list[dict[str, Any]] = []
    for preset in presets:
        rewards = load_rewards(preset)
        for family, step in steps.items():
            groups = {rollout.id: rollout.group for rollout in step.rollouts}
            advantages = group_advantages(total_rewards(rewards, step).totals, groups, STD_FLOOR).values
            rows.append({"policy": policy, "rewards": preset, "family": family} | inside_groups(step, advantages))
    return rows


def means(rows: Sequence[dict[str, Any]], of: Sequence[str]) -> list[dict[str, Any]]:
    """The mean over the families, for all that is alike in the columns `of`."""
    together: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        together[tuple(row[name] for name in of)].append(row)
    table = []
    for group in together.values():
        line: dict[str, Any] = {name: group[0][name] for name in of}
        for name in group[0].keys() - line.keys() - {"family"}:
            there = [row[name] for row in group if row[name] != ""]
            line[name] = statistics.fmean(there) if there else ""
        table.append({name: line[name] for name in group[0] if name in line})
    return table


def main(
    reasoners: dict[str, str] | None = None,
    embedder: str = "runs/quickstart_embedder/model",
    text_embedder: str = "embedrl:world_embedder",
    reference: str = "runs/quickstart_reasoner/model",
    judge: str | None = None,
    pairs: int = 8,
    group: int = 8,
    size: Literal["full", "smallest"] = "full",
    out: Path | None = None,
) -> None:
    """Measure, and print the means over the families and all rows as Markdown.

    Args:
        reasoners: The policies by name; None takes those of the quickstart before and after EG-RL.
        embedder: The frozen Embedder.
        text_embedder: The text embedder that judges.
        reference: The Reasoner that EG-RL starts from: the reference model.
        judge: A generator's folder that was taught to judge, in the brief style.
        pairs: Pairs of each family.
        group: Rollouts a prompt (G).
        size: `smallest` takes two families, the models of the package and few rollouts.
        out: Folder for the results; None only prints.
    """
    torch.set_num_threads(1)
    reasoners = reasoners or {"SFT": reference, "EG-RL": "runs/quickstart_egrl/model"}
    families: Sequence[str] = FAMILIES
    if size == "smallest":
        embedder, reference, pairs, group = "embedrl:world_embedder", "embedrl:world_reasoner", 4, 2
        reasoners, families = {"EG-RL": reference}, FAMILIES[:2]
    judges: dict[str, tuple[Judge, Style]] = {
        "reference": (CheckpointJudge(QwenVLReasoner(reference, max_length=2048)), "full"),
        "text embedder": (TextEmbedderJudge(text_embedder), "full"),
    }
    if judge is not None:
        judges["taught"] = (CheckpointJudge(QwenVLReasoner(judge, max_length=2048)), "brief")
    rows: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    for name, path in reasoners.items():
        steps = make_steps(path, embedder, families, pairs, group)
        rows += measure(name, steps, judges, "reference")
        totals += measure_totals(name, steps, PRESETS)
    asked = {"pairs": pairs, "G": group, "families": ", ".join(families)}
    report("judges", means(rows, ("policy", "judge", "form")), out, **asked)
    report("judges_by_family", rows, out, **asked)
    report("judges_totals", means(totals, ("policy", "rewards")), out, **asked)
    report("judges_totals_by_family", totals, out, **asked)


if __name__ == "__main__":
    auto_cli(main)
