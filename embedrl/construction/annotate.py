"""`embedrl annotate`: sample pairs and have a VLM write the T-CoT of both sides. Source: Embed-RL §3.2, C."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedrl.construction.report_table import print_step_report
from embedrl.construction.requests import run_requests
from embedrl.construction.rows import (
    JOURNALS,
    LeftOut,
    PairWriter,
    StepReport,
    check_place,
    write_mix,
    write_step_report,
)
from embedrl.construction.sample import Caps, sample
from embedrl.construction.vlm import VLM
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import FILE, MAX_BAD, BadSample, OnBad, OnBadMode
from embedrl.data.pair_dataset import pair_name
from embedrl.errors import ConfigError, DataError
from embedrl.tcot.chat import counterpart_of, reasoning_chat, side_of
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style, correction, situation
from embedrl.tcot.store import Record, TCoTJournal, tcot_key
from embedrl.types import Chat, Modality, Pair, Role, Side
from embedrl.utils.console import make_console
from embedrl.utils.file_names import check_file_names
from embedrl.utils.reserved_words import escape


def annotate(
    mix: list[MixRow],
    vlm: VLM,
    out: Path,
    journal: Path | None = None,
    caps: Caps = Caps(),  # noqa: B008  # jsonargparse shows its fields as options; it is never changed
    style: Style = "full",
    attempts: int = 3,
    keep_existing: bool = True,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
    patience: int = 20,
    seed: int = 0,
) -> None:
    """Sample pairs of every data set and have a model write the T-CoT of both sides.

    Every answer is written to a journal at once. Restarted after any interruption, the command requests only what is
    missing. It writes to `out`: one JSONL file of pairs with T-CoTs per data set; `mix.yaml`, which `embedrl fit` and
    `embedrl filter` read; `report.json`; and `left_out.jsonl`, the pairs without a T-CoT and why.

    Args:
        mix: The data sets: a file with a list of {source, weight}, or the list.
        vlm: The model that writes.
        out: The folder to write to.
        journal: The file that keeps T-CoTs; None means `tcots.jsonl` in `out`. Several runs may share one, one after
            another.
        caps: The most pairs of a data set.
        style: The prompt: `full` explains the format; `brief` is for models that were trained on it.
        attempts: Requests for a side until its T-CoT follows the template; each retry lists the problems of the last
            answer. Restarted with more attempts, the command continues with the sides that failed.
        keep_existing: Keep T-CoTs that the pairs have already.
        on_bad: A bad row or picture, or a request without an answer: stop, or leave the pair out and count it.
        max_bad: The most bad rows and pictures that `skip` leaves out; one more stops the run. `skipped.jsonl` names
            them.
        patience: Consecutive requests without an answer after which the run stops, whatever `on_bad` says.
        seed: Seed of the sample.

    Raises:
        ConfigError: If an option is out of its range.
        DataError: If a row or a picture is bad and `on_bad` is `raise`.
        TooManyBadError: If more than `max_bad` are.
        EndpointError: If the endpoint does not answer; its earlier answers are kept.
    """
    if attempts < 1 or patience < 1:
        raise ConfigError(f"--attempts {attempts}, --patience {patience}: give 1 or more")
    bad = OnBad(on_bad, max_bad, "--")
    names = check_labels(mix)
    check_file_names(names, "--mix", JOURNALS)
    check_place(mix, out)
    unknown = [name for name in caps.documents or () if name not in names]
    if unknown:
        raise ConfigError(f"--caps.documents names {unknown[0]}, which is not in the mix: {', '.join(names)}")
    bad.keep(out / FILE)
    report: StepReport = {}
    rows = []
    journal = journal or out / "tcots.jsonl"
    with TCoTJournal(journal) as store:
        left_out = LeftOut(out / "left_out.jsonl")
        run = _Annotation(vlm, store, style, attempts, keep_existing, bad, patience, left_out)
        for row in mix:
            picked = sample(row.source, caps.of(row.label, row.source.modality), seed, row.label)
            written, report[row.label] = run.data_set(row, picked, out)
            rows.append(written)
            write_step_report(out / "report.json", report)
        left_out.close()
    print_step_report(report, "annotated")
    make_console().print(
        f"embedrl eval takes these T-CoTs by: --tcots.cache {journal} --tcots.model '{vlm.key}'",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    write_mix(out / "mix.yaml", rows)


_Keys = tuple[str, str]
"""The journal's keys of a query's and a target's T-CoT; empty for one that is kept as it is."""


@dataclass
class _Job:
    """One side that needs a T-CoT."""

    pair: Pair
    role: Role
    key: str

    @property
    def side(self) -> Side:
        return side_of(self.pair, self.role)

    @property
    def counterpart(self) -> Modality:
        return counterpart_of(self.pair, self.role)


@dataclass
class _Annotation:
    """The settings that all data sets of a run share."""

    vlm: VLM
    store: TCoTJournal
    style: Style
    attempts: int
    keep_existing: bool
    bad: OnBad
    patience: int
    left_out: LeftOut
    asked: set[str] = field(default_factory=set)
    causes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def data_set(self, row: MixRow, picked: list[int], out: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Annotate the picked rows of a data set; returns its mix row and its report."""
        keys: dict[int, _Keys | BadSample] = {}
        run_requests(
            self.vlm, self._jobs(row, picked, keys), self._ask, self._failed,
            title=row.label, total=2 * len(picked), bad=self.bad, patience=self.patience,
            named=lambda job: (row.label, job.pair.id),
        )  # fmt: skip
        causes: Counter[str] = Counter()
        writer = PairWriter(out, row.label, row.source, row.weight)
        for index in picked:
            cause = self._write(row, index, keys[index], writer)
            if cause:
                causes[cause] += 1
        report = {"rows": len(row.source), "sampled": len(picked), "annotated": writer.count, "left_out": dict(causes)}
        return writer.close(), {**report, "model": self.vlm.key}

    def _jobs(self, row: MixRow, picked: list[int], keys: dict[int, _Keys | BadSample]) -> Iterator[_Job | None]:
        """The sides that have no T-CoT yet; stores the keys of all in `keys`."""
        for index in picked:
            try:
                pair = row.source[index]
                jobs = [_Job(pair, role, self._key(pair, role)) for role in Role]
            except DataError as error:
                keys[index] = self.bad.skip(error, row.label, pair_name(row.source, index))
                yield from (None, None)
                continue
            keys[index] = (jobs[0].key, jobs[1].key)
            for job in jobs:
                yield job if self._is_needed(job.key) else None

    def _key(self, pair: Pair, role: Role) -> str:
        side = side_of(pair, role)
        if self.keep_existing and side.tcot.strip():
            return ""
        return tcot_key(side, situation(side.modality, role, counterpart_of(pair, role)), self.style, self.vlm.key)

    def _is_needed(self, key: str) -> bool:
        if not key or key in self.asked:
            return False
        known = self.store.get(key)
        if known is not None and (known.ok or known.attempts >= self.attempts):
            return False
        self.asked.add(key)
        return True

    async def _ask(self, job: _Job) -> str:
        try:
            chat = await asyncio.to_thread(reasoning_chat, job.side, job.role, job.counterpart, self.style)
        except DataError as error:
            raise DataError(f"{job.pair.dataset}/{job.pair.id} {job.role}: {error}") from error
        record = self.store.get(job.key)
        while record is None or not (record.ok or record.attempts >= self.attempts):
            record = await request_tcot(self.vlm, chat, job.side, job.key, record)
            self.store.put(record)
        return "ok" if record.ok else "failed"

    def _failed(self, job: _Job, cause: str, detail: str) -> None:
        self.causes[job.key] = (cause, detail)

    def _write(self, row: MixRow, index: int, keys: _Keys | BadSample, writer: PairWriter) -> str:
        """Write a pair if both of its T-CoTs exist; otherwise returns the cause."""
        if isinstance(keys, BadSample):
            self.left_out.add(row.label, keys.id, "", keys.cause, keys.message)
            return keys.cause
        pair = row.source[index]
        sides = []
        for role, key in zip(Role, keys, strict=True):
            side = side_of(pair, role)
            if not key:
                sides.append(side)
                continue
            record = self.store.get(key)
            if record is None or not record.ok:
                cause, detail = self.causes.get(key, ("no_answer", ""))
                if record is not None:
                    cause, detail = (record.problems or ("failed",))[0], record.tcot[:200]
                self.left_out.add(row.label, pair.id, str(role), cause, detail)
                return cause
            sides.append(side.with_tcot(record.tcot))
        try:
            writer.write(replace(pair, query=sides[0], target=sides[1], dataset=row.label))
        except DataError as error:
            bad = self.bad.skip(error, row.label, pair.id)
            self.left_out.add(row.label, pair.id, "", bad.cause, bad.message)
            return bad.cause
        return ""


async def request_tcot(vlm: VLM, chat: Chat, side: Side, key: str, before: Record | None = None) -> Record:
    """Request a T-CoT once.

    Args:
        vlm: The model that writes, in an open session.
        chat: The prompt.
        side: The side, for its modality and number of frames.
        key: Key of the record.
        before: The previous answer; its problems are listed in the prompt.

    Raises:
        NoAnswer: If the model does not answer.
    """

    def problems(text: str, truncated: bool) -> list[tuple[str, str]]:
        cut = [("truncated", "the answer is too long and was cut off")] if truncated else []
        format_problems = parse(text, side.modality, len(side.frames) or None).problems
        return cut + [(str(problem.code), problem.message) for problem in format_problems]

    if before is not None and before.tcot:
        messages = [message for _, message in problems(before.tcot, "truncated" in before.problems)]
        turns = (("assistant", before.tcot), ("user", correction(messages)))
        chat = [*chat, *({"role": role, "content": [{"type": "text", "text": escape(words)}]} for role, words in turns)]
    answer = await vlm.write(chat)
    text = answer.text.strip()
    codes = tuple(code for code, _ in problems(text, answer.truncated))
    return Record(key, text, not codes, codes, before.attempts + 1 if before else 1)
