"""`embedrl filter`: leave out pairs that checks or a judge refuse. Source: Embed-RL §3.2, C, Table 5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedrl.construction.checks import CheckName, Checks
from embedrl.construction.judgement import Judgement, JudgementStore, judge, verdict_key
from embedrl.construction.report_table import print_step_report
from embedrl.construction.requests import run_requests
from embedrl.construction.rows import (
    JOURNALS,
    LeftOut,
    PairWriter,
    StepReport,
    check_place,
    earlier_report,
    write_mix,
    write_step_report,
)
from embedrl.construction.vlm import VLM
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import FILE, MAX_BAD, OnBad, OnBadMode
from embedrl.data.pair_dataset import pair_name
from embedrl.errors import ConfigError, DataError, EndpointError
from embedrl.types import Pair
from embedrl.utils.file_names import check_file_names

CHECKS: tuple[CheckName, ...] = ("format", "evidence", "duplicate", "near_duplicate_text")
_ENOUGH = 20  # answers after which a judge that is never clear is stopped


def filter_pairs(
    mix: list[MixRow],
    out: Path,
    vlm: VLM | None = None,
    journal: Path | None = None,
    checks: Sequence[CheckName] = CHECKS,
    strict_boxes: bool = False,
    threshold: float = 0.5,
    min_mass: float = 0.5,
    max_unclear: float = 0.5,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
    patience: int = 20,
) -> None:
    """Leave out the pairs that cheap checks refuse, then those whose T-CoTs a model judges irrelevant or contradictory.

    The model answers Yes or No; unclear means No, and only No is kept. Where the model returns the probabilities of its
    first token, they decide. Verdicts are written to a journal at once: restarted, the command requests only missing
    ones. It writes to `out` what `embedrl annotate` writes, and prints the share kept of every data set.

    Args:
        mix: The data sets, with T-CoTs: the `mix.yaml` of `embedrl annotate`, or any other.
        out: The folder to write to.
        vlm: The model that judges; null runs the cheap checks only.
        journal: The file that keeps verdicts; None means `verdicts.jsonl` in `out`.
        checks: The cheap checks, of `format`, `evidence`, `keywords`, `duplicate`, `near_duplicate_text` and
            `near_duplicate_picture`.
        strict_boxes: Let the check `format` refuse one box in place of a list of boxes.
        threshold: Probability of Yes against No above which a pair is left out.
        min_mass: Probability that Yes and No must have together, where the model returns probabilities; below it the
            answer is unclear, whatever the two are against each other.
        max_unclear: Share of unclear answers of a data set above which the run stops: such a judge is of no use.
        on_bad: A bad row or picture, or a request without an answer: stop, or leave the pair out and count it.
        max_bad: The most bad rows and pictures that `skip` leaves out; one more stops the run. `skipped.jsonl` names
            them.
        patience: Consecutive requests without an answer after which the run stops, whatever `on_bad` says.

    Raises:
        ConfigError: If an option is out of its range.
        DataError: If a row or a picture is bad and `on_bad` is `raise`.
        TooManyBadError: If more than `max_bad` are.
        EndpointError: If the endpoint does not answer, or not with Yes or No; its verdicts are kept.
    """
    for name, share in (("threshold", threshold), ("min_mass", min_mass), ("max_unclear", max_unclear)):
        if not 0 <= share <= 1:
            raise ConfigError(f"--{name} {share}: give 0 to 1")
    if patience < 1:
        raise ConfigError(f"--patience {patience}: give 1 or more")
    bad = OnBad(on_bad, max_bad, "--")
    check_file_names(check_labels(mix), "--mix", JOURNALS)
    check_place(mix, out)
    Checks(checks)
    bad.keep(out / FILE)
    report: StepReport = {}
    rows = []
    with JudgementStore(journal or out / "verdicts.jsonl") as store:
        left_out = LeftOut(out / "left_out.jsonl")
        for row in mix:
            cheap = Checks(checks, strict_boxes)
            run = _SetFilter(row, vlm, store, cheap, threshold, min_mass, max_unclear, bad, patience, left_out)
            written, report[row.label] = run.data_set(out)
            rows.append(written)
            write_step_report(out / "report.json", report)
        left_out.close()
    print_step_report(report, "kept")
    write_mix(out / "mix.yaml", rows)


@dataclass
class _SetFilter:
    """The filter of one data set."""

    row: MixRow
    vlm: VLM | None
    store: JudgementStore
    checks: Checks
    threshold: float
    min_mass: float
    max_unclear: float
    bad: OnBad
    patience: int
    left_out: LeftOut
    keys: dict[int, str] = field(default_factory=dict)
    causes: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)
    clear: set[str] = field(default_factory=set)

    def data_set(self, out: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Filter the data set; returns its mix row and its report."""
        jobs = self._jobs()
        if self.vlm is None:
            for _ in jobs:
                pass
        else:
            run_requests(
                self.vlm, jobs, self._ask, self._failed,
                title=self.row.label, total=len(self.row.source), bad=self.bad, patience=self.patience,
                named=lambda job: (self.row.label, job[1].id),
            )  # fmt: skip
        writer = PairWriter(out, self.row.label, self.row.source, self.row.weight)
        for index in range(len(self.row.source)):
            self._write(index, writer)
        counts = Counter(cause for _, cause, _ in self.causes.values())
        before = earlier_report(self.row)
        causes = counts + Counter[str](before.get("left_out"))
        given: dict[str, Any] = {key: before[key] for key in ("rows", "sampled", "annotated") if key in before}
        report = {**given, "given": len(self.row.source), "kept": writer.count, "left_out": dict(causes)}
        report["unclear"] = len(self.unclear)
        return writer.close(), report

    def _jobs(self) -> Iterator[tuple[int, Pair] | None]:
        """The pairs that pass the checks and have no verdict yet; stores the keys of all."""
        asked: set[str] = set()
        for index in range(len(self.row.source)):
            try:
                pair = self.row.source[index]
                cause, detail = self.checks(pair)
            except DataError as error:
                bad = self.bad.skip(error, self.row.label, pair_name(self.row.source, index))
                self.causes[index] = (bad.id, bad.cause, bad.message)
                yield None
                continue
            if cause:
                self.causes[index] = (pair.id, cause, detail)
                yield None
                continue
            key = self.keys[index] = verdict_key(pair, self.vlm.key) if self.vlm else ""
            needed = bool(key) and key not in self.store and key not in asked
            asked.add(key)
            yield (index, pair) if needed else None

    async def _ask(self, job: tuple[int, Pair]) -> str:
        assert self.vlm is not None
        judgement = await judge(self.vlm, job[1], self.keys[job[0]])
        self.store.put(judgement)
        verdict = self._count(judgement)
        self._stop_if_unclear(judgement.answer, least=_ENOUGH)
        return verdict

    def _count(self, judgement: Judgement) -> str:
        verdict = judgement.verdict(self.threshold, self.min_mass)
        (self.unclear if verdict == "unclear" else self.clear).add(judgement.key)
        return verdict

    def _stop_if_unclear(self, answer: str, least: int) -> None:
        number = len(self.clear) + len(self.unclear)
        if self.vlm is not None and number >= least and len(self.unclear) > self.max_unclear * number:
            raise EndpointError(
                f"{self.vlm.where}: {len(self.unclear)} of {number} answers on {self.row.label} are neither Yes nor "
                f"No, such as {answer[:80]!r}: judge with another model, or raise --max_unclear"
            )

    def _failed(self, job: tuple[int, Pair], cause: str, detail: str) -> None:
        self.causes[job[0]] = (job[1].id, cause, detail)

    def _write(self, index: int, writer: PairWriter) -> None:
        if index not in self.causes and self.vlm is not None:
            self._judge(index)
        if index not in self.causes:
            pair = self.row.source[index]
            try:
                writer.write(pair)
            except DataError as error:
                bad = self.bad.skip(error, self.row.label, pair.id)
                self.causes[index] = (bad.id, bad.cause, bad.message)
        if index in self.causes:
            pair_id, cause, detail = self.causes[index]
            self.left_out.add(self.row.label, pair_id, "", cause, detail)

    def _judge(self, index: int) -> None:
        judgement = self.store.get(self.keys[index])
        if judgement is None:  # an equal pair had no answer
            self.causes[index] = (self.row.source[index].id, "no_answer", "")
            return
        if self._count(judgement) == "yes":
            detail = judgement.answer if judgement.p_yes is None else f"Yes with probability {judgement.p_yes:.2f}"
            self.causes[index] = (self.row.source[index].id, "conflict", detail)
