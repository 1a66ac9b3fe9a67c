"""What a system of `one_or_two.py` finds, writes and takes: each query's hit, tokens, latent steps and milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedrl.data.lenient_render import as_lenient
from embedrl.data.render import RenderOptions
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder
from embedrl.inference.tcot_writer import TCoTRequest, generate_tcots
from embedrl.metrics.ranking import rank
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.models.sampling import SamplingOptions
from embedrl.models.unified.latent_model import LatentModel
from embedrl.models.unified.model import UnifiedModel
from embedrl.rl.policy_vectors import PolicyVectors
from embedrl.tcot.chat import reasoning_chat
from embedrl.training.trained_model import load_embedder, load_reasoner
from embedrl.types import RetrievalTask, Role

CPU, BATCH = torch.device("cpu"), 16


@dataclass
class Row:
    """One row of the table.

    Attributes:
        hits: By family, 0 or 1 a query: whether a right candidate comes first.
        tokens: Tokens that the queries' reasoning took, all together, with those that end it.
        latent: Latent steps that the queries took.
        thinking: Queries that reasoned, in words or latent steps.
        seconds: That the queries took, writing and embedding, at `BATCH` queries at once.
    """

    hits: dict[str, list[float]] = field(default_factory=dict)
    tokens: int = 0
    latent: int = 0
    thinking: int = 0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Hits, and means of a query."""
        count = sum(map(len, self.hits.values()))
        return {"hits": self.hits, **{name: getattr(self, name) / count for name in ("tokens", "latent", "thinking")}}

    def milliseconds(self) -> float:
        """What a query took."""
        return 1000 * self.seconds / sum(map(len, self.hits.values()))


@dataclass
class Embedded:
    """Sides as vectors, with what they took."""

    vectors: Tensor
    tokens: list[int]
    latent: int
    seconds: float

    def into(self, row: Row) -> None:
        """Add what the queries took."""
        row.tokens += sum(self.tokens)
        row.latent += self.latent * len(self.tokens)
        row.thinking += len(self.tokens) if self.latent else sum(count > 1 for count in self.tokens)
        row.seconds += self.seconds


def requests(task: RetrievalTask, role: Role, given: bool = False) -> list[TCoTRequest]:
    """The sides of a role, as they are written up; or, given, with the T-CoTs that they have."""
    own, others = (task.queries, task.candidates) if role is Role.QUERY else (task.candidates, task.queries)
    counterpart = others[0].modality
    sides = [side if given else side.with_tcot("") for side in own]
    return [TCoTRequest(side, role, counterpart, f"{task.name} {role} {i}") for i, side in enumerate(sides)]


def hits(task: RetrievalTask, queries: Tensor, candidates: Tensor) -> list[float]:
    """0 or 1 a query."""
    return [float(v) for v in (rank(queries, candidates, task.qrels, task.pools).relevance[:, 0] > 0).tolist()]


def in_batches(items: Sequence[TCoTRequest], work: Callable[[Sequence[TCoTRequest]], tuple[Tensor, list[int]]]) -> Any:
    """Vectors and tokens of all items, and the seconds they took."""
    started, vectors, tokens = time.perf_counter(), [], []
    for start in range(0, len(items), BATCH):
        made, counts = work(items[start : start + BATCH])
        vectors.append(made.cpu())
        tokens += counts
    return torch.cat(vectors), tokens, time.perf_counter() - started


def two_models(
    name: str,
    embedder: Path,
    reasoner: Path | None,
    tasks: Sequence[RetrievalTask],
    limit: int,
    given: bool = False,
) -> dict[str, Row]:
    """An Embedder that reads a Reasoner's T-CoTs, those that are given, or raw sides."""
    render = RenderOptions(tcot="none") if reasoner is None and not given else LENIENT
    frozen, writer = FrozenEmbedder(load_embedder(str(embedder)), render, BATCH), None
    if reasoner is not None:
        writer = load_reasoner(str(reasoner))
        assert isinstance(writer, PolicyGenerator)

    def work(part: Sequence[TCoTRequest]) -> tuple[Tensor, list[int]]:
        sides, counts = [item.side for item in part], [0] * len(part)
        if writer is not None:
            [texts] = generate_tcots(part, writer, CPU, "brief", BATCH, limit)
            tokenizer: Any = writer.processor.tokenizer  # type: ignore[union-attr]  # mypy takes it for a module's tensor
            words = tokenizer(texts, add_special_tokens=False)["input_ids"]
            counts = [len(row) + 1 for row in words]
            sides = [side.with_tcot(str(text)) for side, text in zip(sides, texts, strict=True)]
        return frozen.embed(sides, [item.where for item in part], CPU), counts

    row = Row()
    in_batches(requests(tasks[0], Role.QUERY, given)[:BATCH], work)  # what is loaded at first use is no query's time
    for task in tasks:
        queries = Embedded(*_moved(in_batches(requests(task, Role.QUERY, given), work)))
        candidates, *_ = in_batches(requests(task, Role.TARGET, given), work)
        row.hits[task.name] = hits(task, queries.vectors, candidates)
        queries.into(row)
    return {name: row}


def _moved(made: tuple[Tensor, list[int], float], latent: int = 0) -> tuple[Tensor, list[int], int, float]:
    return made[0], made[1], latent, made[2]


def modes(
    name: str, path: Path, tasks: Sequence[RetrievalTask], limit: int, which: Sequence[str], render: RenderOptions
) -> dict[str, Row]:
    """A unified model in some modes.

    They are `disc`; `gen`, behind its own reasoning; `query`, where queries alone reason; `latent`; `given`, behind the
    reasoning that sides have; and `oracle`, an upper bound: the better one of disc and gen for each query.
    """
    model = load_embedder(str(path))
    assert isinstance(model, UnifiedModel)
    vectors = PolicyVectors(as_lenient(render), BATCH)
    vectors.prepare(model, None)
    frozen = FrozenEmbedder(model, render, BATCH)  # ends a reasoning itself; a rollout has ended or not
    latent = model.latent_steps if isinstance(model, LatentModel) else 0

    def bare(part: Sequence[TCoTRequest]) -> tuple[Tensor, list[int]]:
        return vectors.embed_bare([i.side for i in part], [i.where for i in part], CPU), [0] * len(part)

    @torch.no_grad()
    def behind(part: Sequence[TCoTRequest]) -> tuple[Tensor, list[int]]:
        sides, counts = [item.side for item in part], [0] * len(part)
        if not latent:
            chats = [reasoning_chat(item.side, item.role, item.counterpart, "brief") for item in part]
            prompts = model.preprocessor().prompts(chats)
            rows = model.sample(prompts, 1, [0] * len(part), SamplingOptions(limit, temperature=0.0))
            counts = [len(row[0].tokens) for row in rows]
            sides = [side.with_tcot(row[0].text) for side, row in zip(sides, rows, strict=True)]
        return vectors.embed(sides, [item.where for item in part], CPU), counts

    def shown(part: Sequence[TCoTRequest]) -> tuple[Tensor, list[int]]:
        return frozen.embed([item.side for item in part], [item.where for item in part], CPU), [0] * len(part)

    out: dict[str, Row] = {}
    ways = {"disc": (bare, bare), "gen": (behind, behind), "query": (behind, bare), "latent": (behind, behind)}
    ways["given"] = (shown, shown)
    for mode in which:
        row = out[name if len(which) == 1 else f"{name}, {mode}"] = Row()
        if mode == "oracle":
            disc, gen = (out[f"{name}, {one}"] for one in ("disc", "gen"))
            row.hits = {f: list(map(max, disc.hits[f], gen.hits[f])) for f in gen.hits}
            row.tokens, row.thinking, row.seconds = gen.tokens, gen.thinking, disc.seconds + gen.seconds
            continue
        (ask, answer), given = ways[mode], mode == "given"
        in_batches(requests(tasks[0], Role.QUERY, given)[:BATCH], ask)
        for task in tasks:
            taken = latent if mode == "latent" else 0
            queries = Embedded(*_moved(in_batches(requests(task, Role.QUERY, given), ask), taken))
            candidates, *_ = in_batches(requests(task, Role.TARGET, given), answer)
            row.hits[task.name] = hits(task, queries.vectors, candidates)
            queries.into(row)
    return out
