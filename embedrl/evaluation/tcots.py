"""Where the T-CoTs of an evaluation come from: the tasks themselves, the journal, or a Reasoner that writes now."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.render import RenderOptions, renders_raw
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.identity import key_of, model_identity
from embedrl.inference.tcot_writer import Key, TCoTRequest, generate_tcots, tcot_requests, with_tcots
from embedrl.metrics.confidence import ConfidenceGate
from embedrl.models.generator import Generator
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.tcot.store import Record, TCoTJournal, tcot_key
from embedrl.types import RetrievalTask, Role


@dataclass(frozen=True)
class TCoTOptions:
    """Where T-CoTs are looked up, and how a Reasoner writes missing ones.

    Attributes:
        cache: The journal, as `embedrl annotate` writes it; None means `tcots.jsonl` in the output folder if there is a
            Reasoner, and the tasks' own T-CoTs if not.
        model: The model's name in the journal, as `embedrl annotate` prints it; None derives one from the Reasoner's
            weights and options.
        style: Style of the prompts.
        batch_size: Prompts that are answered at once.
        max_new_tokens: Maximum length of a T-CoT in tokens.
        gate: Which queries get a T-CoT, by how sure their raw vectors are; None: all. Candidates get one anyway.
    """

    cache: Path | None = None
    model: str | None = None
    style: Style = "full"
    batch_size: int = 32
    max_new_tokens: int = 512
    gate: ConfidenceGate | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        for flag in ("batch_size", "max_new_tokens"):
            if getattr(self, flag) < 1:
                raise ConfigError(f"--tcots.{flag} is {getattr(self, flag)}: give 1 or more")


class TCoTs:
    """Adds T-CoTs to tasks; all processes call together, and only rank 0 uses the journal.

    Args:
        options: Where the T-CoTs come from.
        generator: The Reasoner; None only looks T-CoTs up.
        device: Where the Reasoner computes.
        journal: The journal if `options` names none.
        rank: Rank of this process.
        roles: The sides that get T-CoTs; those of another role are left without.

    Raises:
        ConfigError: If a journal is given with neither a Reasoner nor a model's name.
    """

    def __init__(
        self,
        options: TCoTOptions,
        generator: Generator | None,
        device: torch.device,
        journal: Path,
        rank: int = 0,
        roles: Collection[Role] = tuple(Role),
    ) -> None:
        self.roles = roles
        self.options, self.generator, self.device, self.rank = options, generator, device, rank
        self.path = options.cache or (journal if generator is not None else None)
        self.model = options.model or ""
        self._journal: TCoTJournal | None = None
        if self.path is None:
            return
        if generator is not None:
            generator.build()
            generator.requires_grad_(False).eval().to(device)
            if not self.model:
                self.model = f"{key_of(model_identity(generator, device))}, {options.max_new_tokens} tokens"
        elif not self.model:
            raise ConfigError(
                f"--tcots.model: name the model whose T-CoTs to take from {self.path}, as `annotate` printed it and "
                "its report.json has it"
            )
        if rank == 0:
            self._journal = TCoTJournal(self.path, read_only=generator is None)

    @property
    def place(self) -> str:
        """Where T-CoTs are looked up, for errors."""
        return f"{self.path} of the model {self.model!r}" if self.path else "the data"

    def fill(
        self,
        task: RetrievalTask,
        bad: dict[Key, BadSample] | None = None,
        thinking: Collection[int] | None = None,
    ) -> tuple[RetrievalTask, dict[str, int]]:
        """The task with T-CoTs.

        Args:
            task: The task.
            bad: Where to put the sides that cannot be shown to the Reasoner; None stops at the first.
            thinking: The queries, by position, that get a T-CoT, with all that are equal to them; None: all.

        Returns:
            The task, and how many T-CoTs (of different sides) were `cached`, `written` and `absent`; empty if the task
            keeps its own.

        Raises:
            DataError: If a side cannot be shown to the Reasoner and `bad` is None, or the journal cannot be read.
        """
        requests = {key: item for key, item in tcot_requests([task]).items() if item.role in self.roles}
        if thinking is not None:
            raw = {item.side.key for item in requests.values() if item.role == Role.QUERY}
            raw -= {task.queries[i].key for i in thinking}
            requests = {
                key: item for key, item in requests.items() if item.role != Role.QUERY or item.side.key not in raw
            }
            task = replace(task, queries=[side.with_tcot("") if side.key in raw else side for side in task.queries])
        if self.path is None:
            return task, {}
        keys = {key: self._key(key, item) for key, item in requests.items()} if self.rank == 0 else {}
        tcots = self._cached(keys)
        cached = len(tcots)
        if self.generator is not None:
            absent = [key for key in requests if key not in tcots]
            tcots |= self._written(self.generator, absent, [requests[key] for key in absent], keys, bad)
        counts = {"cached": cached, "written": len(tcots) - cached, "absent": len(requests) - len(tcots)}
        return with_tcots(task, tcots), counts

    def close(self) -> None:
        """Release the journal for other writers."""
        if self._journal is not None:
            self._journal.close()

    def _key(self, key: Key, item: TCoTRequest) -> str:
        return tcot_key(item.side, key[1], self.options.style, self.model)

    def _cached(self, keys: dict[Key, str]) -> dict[Key, str]:
        cached: list[tuple[Key, str]] = []
        if self._journal is not None:
            records = ((key, self._journal.get(name)) for key, name in keys.items())
            cached = [(key, record.tcot) for key, record in records if record is not None]
        return dict(gather_objects(cached))

    def _written(
        self,
        generator: Generator,
        names: Sequence[Key],
        requests: Sequence[TCoTRequest],
        keys: dict[Key, str],
        bad: dict[Key, BadSample] | None,
    ) -> dict[Key, str]:
        """Write missing T-CoTs; after every round of batches, rank 0 adds them to the journal."""
        mine, todo = names[self.rank :: world_size()], requests[self.rank :: world_size()]
        size, limit = self.options.batch_size, self.options.max_new_tokens
        on_bad: OnBadMode = "raise" if bad is None else "skip"
        batches = generate_tcots(todo, generator, self.device, self.options.style, size, limit, on_bad)
        out: dict[Key, str] = {}
        for start in range(0, -(-len(names) // world_size()), size):
            texts = next(batches, [])
            told = dict(gather_objects(list(zip(mine[start : start + len(texts)], texts, strict=True))))
            done = {name: text for name, text in told.items() if not isinstance(text, BadSample)}
            if bad is not None:
                bad |= {name: text for name, text in told.items() if isinstance(text, BadSample)}
            out |= done
            if self._journal is not None:
                sides = dict(zip(names, requests, strict=True))
                for name, text in done.items():
                    side = sides[name].side
                    read = parse(text, side.modality, len(side.frames) or None)
                    codes = tuple(sorted(str(code) for code in read.codes))
                    self._journal.put(Record(keys[name], text, read.ok, codes))
        return out


def count_raw(task: RetrievalTask, options: RenderOptions, source: str) -> int:
    """The number of sides that the Embedder reads without a T-CoT although its options ask for T-CoTs.

    Args:
        task: The task with its T-CoTs.
        options: What the Embedder reads.
        source: Where the T-CoTs come from, for the error.

    Raises:
        DataError: If there are any, and the options do not ask for it.
    """
    places = [
        f"{kind} {i}"
        for kind, sides in (("query", task.queries), ("candidate", task.candidates))
        for i, side in enumerate(sides)
        if renders_raw(side, options)
    ]
    if places and options.on_missing_tcot == "raise":
        total = len(task.queries) + len(task.candidates)
        raise DataError(
            f"{task.name}: {len(places)} of {total} sides have no T-CoT in {source}, "
            f"the first is {places[0]}: annotate them, give --reasoner, let --render.on_missing_tcot raw embed and "
            "count them without, or take --render.tcot none for all"
        )
    return len(places)
