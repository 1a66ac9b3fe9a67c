"""T-CoTs of an evaluation that are searched for at test time: best of N, or a tree over their sections."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.identity import key_of, model_identity
from embedrl.evaluation.judged_choice import agreements
from embedrl.evaluation.search_options import SearchMode, SearchOptions
from embedrl.inference.best_of_n import gaps, medoid
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.inference.section_writer import Draft, SectionWriter
from embedrl.inference.tcot_writer import Key, TCoTRequest, places_of
from embedrl.inference.tree_search import search
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.tcot.store import content_hash
from embedrl.types import RetrievalTask, Side
from embedrl.utils.public_names import public_path

MALFORMED = 1.0
"""What a finished T-CoT that departs from the template loses of its value in the tree, in units of Δs."""


class Written(NamedTuple):
    """A T-CoT and the tokens that were spent on it, those of T-CoTs that were not kept included."""

    text: str
    tokens: int


class TCoTSearch:
    """Searches for T-CoTs; all processes call together.

    Args:
        mode: `best_of_n` or `mcts`.
        options: How.
        writer: The Reasoner.
        embedder: The Embedder that ranks.
        style: Style of the prompts.
        device: Where both compute.
        rank: Rank of this process.

    Raises:
        ConfigError: If a step model is given that is not used.
    """

    def __init__(
        self,
        mode: SearchMode,
        options: SearchOptions,
        writer: SectionWriter,
        embedder: FrozenEmbedder,
        style: Style,
        device: torch.device,
        rank: int = 0,
    ) -> None:
        self.mode, self.options, self.writer, self.embedder = mode, options, writer, embedder
        self.style, self.device, self.rank = style, device, rank
        self._task: RetrievalTask | None = None
        self._vectors = torch.empty(0)
        self._pools: dict[Key, list[int] | None] = {}
        self._good: list[int] = []
        self._step_model = ""
        if (step_model := options.step_model) is not None:
            if mode == "best_of_n" and options.choose != "step_model":
                raise ConfigError(
                    f"--tcots.searching.step_model is given, but --tcots.searching.choose is {options.choose}: give "
                    "step_model, or leave it out"
                )
            step_model.build(device)
            own = {"style": step_model.style, "render": asdict(step_model.render)}
            self._step_model = key_of(model_identity(step_model.generator, device) | own)

    @property
    def knows_candidates(self) -> bool:
        """Whether it searches with the candidates."""
        return self.mode == "mcts" or self.options.choose in ("delta_s", "judge")

    @property
    def queries_alone(self) -> bool:
        """Whether it searches for queries alone: with the candidates, or by a step model, which knows queries."""
        return self.knows_candidates or self.options.choose == "step_model"

    def identity(self, embedder: str) -> str:
        """What the T-CoTs depend on besides the Reasoner.

        Args:
            embedder: Key of the Embedder.
        """
        own = ("samples", "choose") if self.mode == "best_of_n" else ("branches", "rounds", "exploration")
        used = {name: getattr(self.options, name) for name in (*own, "temperature", "top_p", "seed")}
        if self._step_model:
            used |= {"step_model": self._step_model}
        if self.options.judge is not None:
            used |= {"judge": f"{public_path(type(self.options.judge))} {self.options.judge.name}"}
            used |= {"shown": self.options.shown}
        pool = [[content_hash(side), side.tcot] for side in self._task.candidates] if self._task else []
        return json.dumps([self.mode, used, embedder, pool], sort_keys=True)

    def open_pool(self, task: RetrievalTask, keys: Sequence[Key], bad: Collection[int] = ()) -> None:
        """Take a task, whose candidates have their T-CoTs where these count.

        Args:
            task: The task.
            keys: The sides that T-CoTs are searched for, as `tcot_requests` names them.
            bad: Positions of candidates that turned out to be bad, and do not compete.
        """
        if not self.knows_candidates:
            return
        self._task, self._good = task, [i for i in range(len(task.candidates)) if i not in bad]
        self._pools = dict.fromkeys(keys, self._good if bad else None)
        if task.pools is not None:
            pools: dict[Key, set[int]] = {key: set() for key in keys}
            for position, key in places_of(task, keys)[0].items():
                pools[key] |= set(task.pools[position]) - set(bad)
            self._pools = {key: sorted(pool) for key, pool in pools.items()}

    def embed_pool(self) -> None:
        """Embed the candidates, each process a part; all call together.

        Raises:
            DataError: If one cannot be shown to the Embedder.
        """
        if self._task is None:
            return
        candidates = self._task.candidates
        own = self._good[self.rank :: world_size()]
        names = [f"{self._task.name}/candidate {i}" for i in own]
        sides = [candidates[i] for i in own]
        vectors: Sequence[Tensor] = list(self.embedder.embed(sides, names, self.device).cpu()) if sides else []
        rows = dict(gather_objects(list(zip(own, vectors, strict=True))))
        # What is bad is in no pool, and its row never read.
        nothing = torch.full_like(next(iter(rows.values())), torch.nan)
        self._vectors = torch.stack([rows.get(i, nothing) for i in range(len(candidates))])

    def write(
        self, keys: Sequence[Key], requests: Sequence[TCoTRequest], on_bad: OnBadMode
    ) -> list[Written | BadSample]:
        """Search for the T-CoTs of sides.

        Args:
            keys: The sides, as `tcot_requests` names them.
            requests: What to write of each.
            on_bad: A side that cannot be shown: `raise`, or `skip`.

        Returns:
            The T-CoTs; in place of a bad side's, what is wrong with it.

        Raises:
            DataError: If a side cannot be shown and `on_bad` is `raise`, or a judge answers nothing.
        """
        rows, bad = self._rows(requests, on_bad)
        good = [i for i in range(len(requests)) if i not in bad]
        own = [requests[i] for i in good]
        # A name that is the same in every run: the key of a side depends on where its files lie.
        names = [f"{content_hash(item.side)}/{keys[i][1]}" for i, item in zip(good, own, strict=True)]
        pools = [self._pools.get(keys[i]) for i in good]
        method = self._mcts if self.mode == "mcts" else self._best_of_n
        texts = iter(method(rows, own, names, pools) if own else [])
        return [bad[i] if i in bad else next(texts) for i in range(len(requests))]

    def _rows(
        self, requests: Sequence[TCoTRequest], on_bad: OnBadMode
    ) -> tuple[list[ModelInputs], dict[int, BadSample]]:
        preprocessor = self.writer.generator.preprocessor()
        rows, bad = [], {}
        for i, item in enumerate(requests):
            try:
                chat = reasoning_chat(item.side, item.role, item.counterpart, self.style)
                rows += preprocessor.prompt_rows([chat])
            except DataError as error:
                named = DataError(f"{item.where}: {error}", error.cause)
                if on_bad == "raise":
                    raise named from error
                task, _, side = item.where.rpartition("/")
                bad[i] = BadSample.of(named, task, side)
        return rows, bad

    def _embedded(self, requests: Sequence[TCoTRequest], texts: Sequence[str]) -> Tensor:
        sides = [item.side.with_tcot(text) for item, text in zip(requests, texts, strict=True)]
        return self.embedder.embed(sides, [item.where for item in requests], self.device).cpu()

    def _best_of_n(
        self,
        rows: Sequence[ModelInputs],
        requests: Sequence[TCoTRequest],
        names: Sequence[str],
        pools: Sequence[list[int] | None],
    ) -> list[Written]:
        n = self.options.samples
        groups = self.writer.whole(rows, names, n)
        if n == 1:
            return [Written(one.text, len(one.tokens)) for [one] in groups]
        tokens = [sum(len(draft.tokens) for draft in group) for group in groups]
        # What departs from the template is kept only where all do.
        groups = [
            [draft for draft in group if _follows(item, draft)] or group
            for item, group in zip(requests, groups, strict=True)
        ]
        sizes = [len(group) for group in groups]
        every = [item for item, size in zip(requests, sizes, strict=True) for _ in range(size)]
        made = self._embedded(every, [draft.text for group in groups for draft in group])
        vectors = torch.split(made, sizes)
        if self.options.choose == "medoid":
            picked = [medoid(own) for own in vectors]
        elif self.options.choose == "delta_s":
            scores = [gaps(own, self._vectors, [pool] * len(own)) for own, pool in zip(vectors, pools, strict=True)]
            picked = [max(range(len(own)), key=own.__getitem__) for own in scores]
        elif self.options.choose == "step_model":
            values = iter(self._values(every, [draft for group in groups for draft in group]))
            worth = [[next(values) for _ in group] for group in groups]
            picked = [max(range(len(own)), key=own.__getitem__) for own in worth]
        else:
            picked = self._judged(requests, groups, vectors, pools)
        kept = [group[at].text for group, at in zip(groups, picked, strict=True)]
        return [Written(text, spent) for text, spent in zip(kept, tokens, strict=True)]

    def _values(self, requests: Sequence[TCoTRequest], drafts: Sequence[Draft]) -> list[float]:
        """What the step model says of T-CoTs so far; 0 of each without one."""
        if self.options.step_model is None:
            return [0.0] * len(drafts)
        sides = [item.side.with_tcot(draft.text) for item, draft in zip(requests, drafts, strict=True)]
        return self.options.step_model.values(sides, [item.where for item in requests])

    def _judged(
        self,
        requests: Sequence[TCoTRequest],
        groups: Sequence[Sequence[Draft]],
        vectors: Sequence[Tensor],
        pools: Sequence[list[int] | None],
    ) -> list[int]:
        assert self.options.judge is not None
        assert self._task is not None
        picked = []
        for item, group, own, pool in zip(requests, groups, vectors, pools, strict=True):
            columns = list(range(len(self._vectors))) if pool is None else pool
            order = (own.double() @ self._vectors[columns].double().T).argsort(dim=1, descending=True, stable=True)
            options: list[Side] = [item.side.with_tcot(draft.text) for draft in group]
            best = [[columns[at] for at in row[: self.options.shown]] for row in order.tolist()]
            shown = [[self._task.candidates[i] for i in row] for row in best]
            scores = agreements(self.options.judge, options, shown, item.where, self.options.seed)
            picked.append(max(range(len(scores)), key=scores.__getitem__))
        return picked

    def _mcts(
        self,
        rows: Sequence[ModelInputs],
        requests: Sequence[TCoTRequest],
        names: Sequence[str],
        pools: Sequence[list[int] | None],
    ) -> list[Written]:
        spent = [0] * len(rows)

        def count(
            numbers: Sequence[int], before: Sequence[Draft], after: Sequence[Sequence[Draft]]
        ) -> list[list[Draft]]:
            for i, draft, group in zip(numbers, before, after, strict=True):
                spent[i] += sum(len(one.tokens) - len(draft.tokens) for one in group)
            return [list(group) for group in after]

        def expand(numbers: Sequence[int], drafts: Sequence[Draft]) -> list[list[Draft]]:
            some = [rows[i] for i in numbers], drafts, [names[i] for i in numbers]
            return count(numbers, drafts, self.writer.sections(*some, self.options.branches))

        def finish(numbers: Sequence[int], drafts: Sequence[Draft]) -> list[list[Draft]]:
            some = [rows[i] for i in numbers], drafts, [names[i] for i in numbers]
            return count(numbers, drafts, [[one] for one in self.writer.rest(*some)])

        def value(numbers: Sequence[int], drafts: Sequence[Draft]) -> list[float]:
            own = [requests[i] for i in numbers]
            vectors = self._embedded(own, [draft.text for draft in drafts])
            scores = gaps(vectors, self._vectors, [pools[i] for i in numbers])
            broken = [draft.done and not _follows(item, draft) for item, draft in zip(own, drafts, strict=True)]
            values = self._values(own, drafts)
            return [gap + worth - MALFORMED * wrong for gap, worth, wrong in zip(scores, values, broken, strict=True)]

        best = search(len(rows), expand, value, finish, self.options.rounds, self.options.exploration)
        return [Written(draft.text, tokens) for (draft, _), tokens in zip(best, spent, strict=True)]


def _follows(item: TCoTRequest, draft: Draft) -> bool:
    """Whether a T-CoT follows the template."""
    return parse(draft.text, item.side.modality, len(item.side.frames) or None).ok
