"""`embedrl judge check`: how good a discriminator is, and whether it answers a candidate or a place."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from embedrl.data.match_lessons import Match, MatchLessons
from embedrl.data.sources import PairSource
from embedrl.errors import ConfigError
from embedrl.rl.judge_check import JudgeScores, Rotated, as_json, check_judge, in_several_orders
from embedrl.rl.rewards.judge import Judge, NeedsScorer, Question
from embedrl.tcot.prompts import Style
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import data_set_column, make_console, tell


def check(
    judge: Judge,
    sources: list[PairSource],
    size: int = 64,
    negatives: int = 4,
    pool: int = 16,
    rotations: int = 3,
    style: Style = "full",
    limit: int | None = 500,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Ask a judge of the process reward questions whose answers are known, each with its candidates in several orders.

    The questions are those of training: T-CoTs of pairs, of which one belongs to the side. A judge that answers a place
    ("always number 6") has as many right answers as a guess, and its answer does not follow the candidate when the list
    is rotated: its reward would be the seed of the shuffle. The first thing to know about a judge.

    Args:
        judge: The judge: `embedrl.rl.CheckpointJudge`, `EndpointJudge`, `TextEmbedderJudge`, or your own. For the
            reference model, the folder that training starts from as a `CheckpointJudge`.
        sources: Pairs with T-CoTs: teachers', or those that a Reasoner wrote (`embedrl annotate`). Sources of one name
            hold the same pairs written up by several teachers, the best first.
        size: Questions a data set.
        negatives: Candidates of other pairs in each question, beside the right one.
        pool: Most pairs that these are chosen from, by the words of their answers: the more, the harder.
        rotations: Number of orders of each question.
        style: Style of the question, as in `ProcessReward`.
        limit: Use only this many pairs of every data set, the first ones; null means all.
        seed: Seed of the questions.
        out: Write the figures as JSON, too.

    Raises:
        ConfigError: If a number is out of range, or the judge needs a training.
        DataError: If a pair is broken or has no T-CoT.
        CheckpointError: If the judge's model cannot be read.
    """
    if isinstance(judge, NeedsScorer) and getattr(judge, "scorer", judge) is None:
        raise ConfigError(
            "--judge: a ReferenceJudge has no model outside of a training: give the folder that it starts from as "
            "embedrl.rl.CheckpointJudge"
        )
    if size < 1 or negatives < 1 or rotations < 2:
        raise ConfigError(
            f"--size {size}, --negatives {negatives}, --rotations {rotations}: give 1 or more, 1 or more, 2 or more"
        )
    names = len({source.name for source in sources})
    count = negatives + 1
    lessons = MatchLessons(sources, size * max(names, 1), (count, count), pool, style, 0, limit, seed)
    matches = [lessons.match(i) for i in range(len(lessons))]
    questions = [rotated(match, rotations, style) for match in matches]
    rows = check_judge(judge, sorted(questions, key=lambda question: question.kind))
    _show(judge.name, rows)
    if out is not None:
        figures = {"judge": judge.name, "negatives": negatives, "rotations": rotations, "seed": seed}
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as part:
            part.write_text(json.dumps(figures | {"scores": as_json(rows)}, indent=1) + "\n", encoding="utf-8")
        tell(f"wrote {out}")


def rotated(match: Match, rotations: int, style: Style) -> Rotated:
    """A question in several orders."""
    anchor = f"{match.anchor.text.strip()}\n{match.anchor.tcot}".strip()

    def ask(candidates: tuple[str, ...]) -> Question:
        prompt = replace(match, candidates=candidates).prompt(style)
        return Question(f"{match.id}/{match.role}", prompt, len(candidates), anchor, candidates)

    return in_several_orders(match.dataset, match.candidates, frozenset([match.right]), rotations, ask)


def _show(name: str, rows: list[JudgeScores]) -> None:
    from rich.table import Table

    titles = (
        "questions",
        "right",
        "chance",
        "follows the candidate",
        "keeps the place",
        "favourite place",
        "no verdict",
    )
    table = Table(data_set_column(), *titles, title=name)
    for row in rows:
        shares = (row.right, row.chance, row.follows, row.keeps_place, row.favourite, row.no_verdict)
        table.add_row(row.kind, str(row.questions), *(f"{share:.2f}" for share in shares))
    make_console().print(table)
    last = rows[-1]
    if last.follows < 0.5:
        sys.stdout.write(
            f"Of two orders of a question, {last.follows:.0%} of the answers name the same candidate: this judge "
            "answers places more than candidates. Do not train with it.\n"
        )
