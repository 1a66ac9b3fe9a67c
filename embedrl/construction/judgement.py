"""Are the two T-CoTs of a pair obviously irrelevant to each other, or in conflict? Source: Embed-RL §3.2, C."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from embedrl.construction.vlm import VLM
from embedrl.tcot.schema import clean_text
from embedrl.tcot.store import content_hash
from embedrl.types import Chat, Pair, Side
from embedrl.utils.record_store import RecordStore
from embedrl.utils.reserved_words import escape

PROMPT = """\
A retrieval pair has a query and its target. Each has a note: a description of what it shows or asks for, and why.
Judge whether the two notes are obviously irrelevant to each other, or obviously conflict, given the task of the query.
Differences in detail, wording or length do not count. If it is unclear, the answer is No.

Query: {query}
Note of the query: {query_tcot}

Target: {target}
Note of the target: {target_tcot}

Are the notes obviously irrelevant to each other or in obvious conflict? Answer with one word, Yes or No."""

_YES, _NO = re.compile(r"\W*yes\W*", re.IGNORECASE), re.compile(r"\W*no\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """An answer of the judge.

    Attributes:
        key: What `verdict_key` returns.
        answer: Its text.
        p_yes: Probability of Yes against No; None if the model does not return it.
        mass: Probability of Yes and No together; None if the model does not return it.
    """

    key: str
    answer: str
    p_yes: float | None = None
    mass: float | None = None

    def verdict(self, threshold: float, min_mass: float) -> Literal["yes", "no", "unclear"]:
        """What the answer says; where its probabilities are known, they decide.

        Args:
            threshold: Probability of Yes against No above which it is Yes.
            min_mass: Probability that Yes and No must have together; below it the answer is unclear.
        """
        if self.mass is not None and not self.mass >= min_mass:
            return "unclear"
        if self.p_yes is not None:
            return "yes" if self.p_yes > threshold else "no"
        if _YES.fullmatch(self.answer):
            return "yes"
        return "no" if _NO.fullmatch(self.answer) else "unclear"


def question(pair: Pair) -> Chat:
    """What the judge reads: texts and T-CoTs, no pictures."""
    words = PROMPT.format(
        query=_said(pair.query),
        query_tcot=clean_text(pair.query.tcot),
        target=_said(pair.target),
        target_tcot=clean_text(pair.target.tcot),
    )
    words = escape(words)
    return [{"role": "user", "content": [{"type": "text", "text": words}]}]


def _said(side: Side) -> str:
    """A side as text: `[picture] find the red star .`."""
    seen = ["[video]"] if side.frames else ["[picture]"] * len(side.images)
    return " ".join([*seen, clean_text(side.text).strip()]).strip()


def verdict_key(pair: Pair, model: str) -> str:
    """The key of a verdict: both sides, both T-CoTs, the prompt's words, the model.

    Args:
        pair: The pair, with T-CoTs.
        model: The model's `VLM.key`.

    Raises:
        DataError: If a picture file is missing.
    """
    prompt = hashlib.sha256(PROMPT.encode()).hexdigest()[:12]
    sides = [[content_hash(side), clean_text(side.tcot)] for side in (pair.query, pair.target)]
    return hashlib.sha256(json.dumps([sides, prompt, model]).encode()).hexdigest()[:32]


async def judge(vlm: VLM, pair: Pair, key: str) -> Judgement:
    """Request a judgement.

    Args:
        vlm: The model that judges, in an open session.
        pair: The pair, with T-CoTs.
        key: Key of the verdict.

    Raises:
        NoAnswer: If the model does not answer.
    """
    answer = await vlm.yes_or_no(question(pair))
    return Judgement(key, answer.text.strip(), answer.p_yes, answer.mass)


class JudgementStore(RecordStore[Judgement]):
    """Verdicts on disk, one JSON line each; see `RecordStore`."""

    def record(self, row: dict[str, Any]) -> Judgement:
        """See `RecordStore`."""
        return Judgement(row["key"], row["answer"], row["p_yes"], row.get("mass"))

    def problem(self, row: dict[str, Any]) -> str:
        """See `RecordStore`."""
        numbers = (row.get("p_yes"), row.get("mass"))
        shares = all(value is None or (type(value) in (int, float) and 0 <= value <= 1) for value in numbers)
        whole = row.keys() | {"mass"} == {"key", "answer", "p_yes", "mass"} and isinstance(row["answer"], str)
        return "" if whole and shares else "not a verdict {key, answer, p_yes, mass}"
