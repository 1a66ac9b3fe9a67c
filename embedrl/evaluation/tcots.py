"""Where the T-CoTs of an evaluation come from: the tasks themselves, the journal, or a Reasoner that writes now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.render import RenderOptions, renders_raw
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.identity import key_of, model_identity
from embedrl.evaluation.search_options import SearchMode, SearchOptions
from embedrl.evaluation.tcot_search import TCoTSearch, Written
from embedrl.evaluation.vectors import VectorCache
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.inference.section_writer import SectionWriter
from embedrl.inference.tcot_writer import Key, TCoTRequest, generate_tcots, places_of, tcot_requests, with_tcots
from embedrl.metrics.confidence import ConfidenceGate
from embedrl.models.generator import Generator
from embedrl.models.policy_generator import PolicyGenerator
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
        search: How a Reasoner writes: `greedy`; `best_of_n` draws several T-CoTs and keeps one; `mcts` searches a tree
            over their sections. Neither sees a label.
        searching: The options of `best_of_n` and `mcts`.
    """

    cache: Path | None = None
    model: str | None = None
    style: Style = "full"
    batch_size: int = 32
    max_new_tokens: int = 512
    gate: ConfidenceGate | None = None
    search: SearchMode = "greedy"
    searching: SearchOptions = SearchOptions()  # noqa: RUF009 (frozen)

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
        vectors: The Embedder, which `best_of_n` and `mcts` need.

    Raises:
        ConfigError: If a journal is given with neither a Reasoner nor a model's name, or a search lacks its models.
    """

    def __init__(
        self,
        options: TCoTOptions,
        generator: Generator | None,
        device: torch.device,
        journal: Path,
        rank: int = 0,
        roles: Collection[Role] = tuple(Role),
        vectors: VectorCache | None = None,
    ) -> None:
        self.roles = roles
        self.options, self.generator, self.device, self.rank = options, generator, device, rank
        self.path = options.cache or (journal if generator is not None else None)
        self.model = options.model or ""
        self._journal: TCoTJournal | None = None
        self._search: TCoTSearch | None = None
        if options.search != "greedy":
            self._search = self._make_search(generator, vectors)
            self._embedder = key_of(vectors.identity) if vectors is not None else ""
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
            The task, and how many T-CoTs (of different sides) were `cached`, `written` and `absent`, and the `tokens`
            that a Reasoner spent on them, if they are known; empty if the task keeps its own.

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
        written: dict[Key, Written] = {}
        counts = {"cached": 0, "written": 0}
        for keys, search in self._phases(requests):
            model = self.model
            if search is not None:
                search.open_pool(with_tcots(task, _texts(written)), keys, places_of(task, bad or {})[1])
                model = f"{self.model}, {search.identity(self._embedder)}"
            part = {key: requests[key] for key in keys}
            names = {key: self._key(key, item, model) for key, item in part.items()} if self.rank == 0 else {}
            cached = self._cached(names)
            written |= cached
            counts["cached"] += len(cached)
            if self.generator is not None:
                absent = [key for key in keys if key not in cached]
                made = self._written(self.generator, absent, [part[key] for key in absent], names, bad, search)
                written |= made
                counts["written"] += len(made)
        counts["absent"] = len(requests) - len(written)
        if tokens := sum(one.tokens for one in written.values()):
            counts["tokens"] = tokens
        return with_tcots(task, _texts(written)), counts

    def close(self) -> None:
        """Release the journal for other writers."""
        if self._journal is not None:
            self._journal.close()

    def _make_search(self, generator: Generator | None, vectors: VectorCache | None) -> TCoTSearch:
        mode, options = self.options.search, self.options
        if generator is None or vectors is None:
            raise ConfigError(f"--tcots.search {mode}: give --reasoner: it writes the T-CoTs that are searched")
        if not isinstance(generator, PolicyGenerator):
            raise ConfigError(
                f"--tcots.search {mode}: a {type(generator).__name__} cannot draw; give a PolicyGenerator"
            )
        how = options.searching
        writer = SectionWriter(
            generator, self.device, options.batch_size, options.max_new_tokens, how.temperature, how.top_p, how.seed
        )
        embedder = FrozenEmbedder(vectors.backbone, vectors.options, vectors.encode_options.micro_batch_size)
        return TCoTSearch(mode, how, writer, embedder, options.style, self.device, self.rank)

    def _phases(self, requests: Mapping[Key, TCoTRequest]) -> list[tuple[list[Key], TCoTSearch | None]]:
        """Which T-CoTs are written when, and how: candidates first where the search looks at them."""
        search = self._search
        if search is None or not search.queries_alone:
            return [(list(requests), search)]
        targets = [key for key, item in requests.items() if item.role is Role.TARGET]
        return [(targets, None), ([key for key in requests if key not in set(targets)], search)]

    def _key(self, key: Key, item: TCoTRequest, model: str) -> str:
        return tcot_key(item.side, key[1], self.options.style, model)

    def _cached(self, keys: dict[Key, str]) -> dict[Key, Written]:
        cached: list[tuple[Key, Written]] = []
        if self._journal is not None:
            records = ((key, self._journal.get(name)) for key, name in keys.items())
            cached = [(key, Written(record.tcot, record.tokens)) for key, record in records if record is not None]
        return dict(gather_objects(cached))

    def _written(
        self,
        generator: Generator,
        names: Sequence[Key],
        requests: Sequence[TCoTRequest],
        keys: dict[Key, str],
        bad: dict[Key, BadSample] | None,
        search: TCoTSearch | None,
    ) -> dict[Key, Written]:
        """Write missing T-CoTs; after every round of batches, rank 0 adds them to the journal."""
        if search is not None and names:
            search.embed_pool()
        mine, todo = names[self.rank :: world_size()], requests[self.rank :: world_size()]
        size, limit = self.options.batch_size, self.options.max_new_tokens
        on_bad: OnBadMode = "raise" if bad is None else "skip"
        batches = generate_tcots(todo, generator, self.device, self.options.style, size, limit, on_bad)
        out: dict[Key, Written] = {}
        for start in range(0, -(-len(names) // world_size()), size):
            here = slice(start, start + size)
            if search is None:
                texts = [self._counted(text) for text in next(batches, [])]
            else:
                texts = search.write(mine[here], todo[here], on_bad)
            told = dict(gather_objects(list(zip(mine[here], texts, strict=True))))
            done = {name: one for name, one in told.items() if not isinstance(one, BadSample)}
            if bad is not None:
                bad |= {name: one for name, one in told.items() if isinstance(one, BadSample)}
            out |= done
            if self._journal is not None:
                sides = dict(zip(names, requests, strict=True))
                for name, one in done.items():
                    side = sides[name].side
                    read = parse(one.text, side.modality, len(side.frames) or None)
                    codes = tuple(sorted(str(code) for code in read.codes))
                    self._journal.put(Record(keys[name], one.text, read.ok, codes, tokens=one.tokens))
        return out

    def _counted(self, text: str | BadSample) -> Written | BadSample:
        """A T-CoT with the number of its tokens; 0 if the Reasoner has no tokenizer of its own."""
        if isinstance(text, BadSample):
            return text
        if not isinstance(self.generator, PolicyGenerator):
            return Written(text, 0)
        return Written(text, len(self.generator.processor.tokenizer(text, add_special_tokens=False)["input_ids"]))


def _texts(written: Mapping[Key, Written]) -> dict[Key, str]:
    return {key: one.text for key, one in written.items()}


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
