"""The rows of `egrl_world.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from egrl_world_report import INPUT

from embedrl.data.render import RenderOptions
from embedrl.evaluation.search_options import SearchMode
from embedrl.inference.frozen_embedder import LENIENT

ZONE = [
    '--trainer.callbacks+={"class_path": "embedrl.rl.KeepInPartialZone", "init_args": {"difficulty": '
    '{"class_path": "embedrl.data.world.WorldDifficulty"}}}',
    "--data.init_args.zone_choices=3",
]
REJECT = ["--model.init_args.advantages.scale=best", "--model.init_args.loss.init_args.kl_coefficient=0"]


class Reward(NamedTuple):
    """A row of EG-RL.

    Attributes:
        preset: Its rewards.
        flags: What else it changes of the recipe.
        name: Of its folder, where other rows have the same preset.
        start: The teacher of the Reasoner that it begins with, a value of `TAUGHT`; empty takes the quickstart's.
    """

    preset: str
    flags: Sequence[str] = ()
    name: str = ""
    start: str = ""


REWARDED: dict[str, Reward] = {
    "EG-RL, outcome alone": Reward("outcome_only"),
    "EG-RL, with verifiable evidence (supervised)": Reward("evidence"),
    "EG-RL, full reward, judge: text embedder": Reward("text_judge"),
    "EG-RL, full reward, weights of the released code, judge: text embedder": Reward("text_judge_code_weights"),
    "EG-RL, full reward, judge: reference": Reward("paper"),
    "EG-RL, process and format alone": Reward("process_only"),
    "EG-RL, uniform negatives": Reward("uniform_negatives"),
    "EG-RL, with step credit": Reward("step_credit"),
    "EG-RL, with counterfactual evidence": Reward("counterfactual"),
    "EG-RL, with evidence, kept in the partial zone": Reward("evidence", ZONE, "zone"),
    "rejection sampling, outcome alone": Reward("outcome_only", REJECT, "reject"),
    "rejection sampling, with verifiable evidence (supervised)": Reward("evidence", REJECT, "reject_evidence"),
    "control: rewards permuted": Reward("permuted"),
    "SFT from the careful annotator, then EG-RL, outcome alone": Reward(
        "outcome_only", name="careful", start="careful"
    ),
    "SFT from the careful annotator, then EG-RL, full reward, judge: text embedder": Reward(
        "text_judge", name="careful_text_judge", start="careful"
    ),
}
"""Rows of EG-RL and of what takes its place: name → how it is rewarded. Rejection sampling is cross-entropy on the best
rollout of each group, by the same rewards, on as many rollouts."""
FIXED: dict[str, RenderOptions] = {
    "raw input": replace(LENIENT, tcot="none"),
    "SFT T-CoT, answer only": replace(LENIENT, tcot="answer_only"),
    "SFT T-CoT, without cues": replace(LENIENT, cues="off"),
    "SFT T-CoT": LENIENT,
}
"""Rows of the Reasoner as SFT left it: name → what the Embedder sees of its T-CoTs."""
TAUGHT: dict[str, str] = {"SFT from the careful annotator": "careful", "SFT from the perfect teacher": "perfect"}
"""Rows of Reasoners that other teachers taught: name → teacher."""


class Search(NamedTuple):
    """A way to search for T-CoTs with the main row's policies.

    Attributes:
        mode: `best_of_n` or `mcts`.
        options: Those of `SearchOptions`.
        step_model: Whether a step model is trained for it.
    """

    mode: SearchMode
    options: dict[str, Any]
    step_model: bool = False


SEARCHES: dict[str, Search] = {
    "best of 8 by agreement": Search("best_of_n", {"samples": 8, "choose": "medoid", "top_p": 0.9}),
    "best of 8 by Δs": Search("best_of_n", {"samples": 8, "choose": "delta_s", "top_p": 0.9}),
    "best of 8 by a step model": Search("best_of_n", {"samples": 8, "choose": "step_model", "top_p": 0.9}, True),
    "tree search": Search("mcts", {"top_p": 0.9}),
    "tree search by a step model": Search("mcts", {"top_p": 0.9}, True),
}
"""How T-CoTs are searched for: end of the row's name → how."""
START, RAW, PERFECT = "SFT T-CoT", "raw input, Embedder trained on it", "perfect teacher"
TURNS = "EG-RL and Embedder in turns, the last of both"
SECOND = "EG-RL, then the second Embedder"
BY_SECOND = {START: "SFT T-CoT, by the second Embedder", PERFECT: "perfect teacher, by the second Embedder"}
"""Rows that the Embedder ranks which was trained on with EG-RL's T-CoTs: what it makes of other T-CoTs."""

FULL, OUTCOME = "EG-RL, full reward, judge: text embedder", "EG-RL, outcome alone"
REFERENCE, PROCESS = "EG-RL, full reward, judge: reference", "EG-RL, process and format alone"
ORDERINGS = (
    (FULL, START), (REFERENCE, START), (FULL, OUTCOME), (REFERENCE, OUTCOME), (REFERENCE, PROCESS), (PROCESS, START),
    (OUTCOME, "EG-RL, uniform negatives"), (START, "SFT T-CoT, answer only"), (START, "SFT T-CoT, without cues"),
    (START, RAW),
)  # fmt: skip
"""Pairs of rows of which the paper has the first above the second: what EG-RL and its parts, negatives by weight,
T-CoTs and their cues are worth. Source: Embed-RL Table 4."""


def kinds() -> dict[str, str]:
    """All rows in the order of the table, each with its kind."""
    first = dict.fromkeys(["raw input", RAW, *FIXED], INPUT) | dict.fromkeys([START, *TAUGHT], "SFT")
    second = {BY_SECOND[START]: "SFT", SECOND: "EG-RL", BY_SECOND[PERFECT]: "teacher"}
    searched = {f"{row}, {name}": "search" for row in REWARDED for name in SEARCHES}
    return first | dict.fromkeys(REWARDED, "EG-RL") | searched | {TURNS: "EG-RL", PERFECT: "teacher"} | second


def wanted(rows: str | Sequence[str], main: str) -> list[str]:
    """The rows that take a training of their own.

    Args:
        rows: `main`, `all`, or names.
        main: The main row.

    Raises:
        SystemExit: If there is no such row.
    """
    every = [*TAUGHT, *REWARDED, SECOND, TURNS]
    known = {"main": [main], "all": [main, *(row for row in every if row != main)], **{row: [row] for row in every}}
    names = [rows] if isinstance(rows, str) else rows
    if odd := [name for name in names if name not in known]:
        raise SystemExit(f"--rows: no {odd[0]!r}; give some of {', '.join(known)}")
    return list(dict.fromkeys(row for name in names for row in known[name]))
