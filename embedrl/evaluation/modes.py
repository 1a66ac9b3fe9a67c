"""Evaluating a unified model: a mode for each side, two upper bounds, and what reasoning costs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from embedrl.data.render import RenderOptions, renders_raw
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.mode_figures import ModeFigures, table
from embedrl.evaluation.tcots import TCoTOptions
from embedrl.inference.tcot_writer import TCoTRequest
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import KS, per_query_metrics
from embedrl.models.backbone import Backbone
from embedrl.models.sampling import SamplingOptions
from embedrl.models.unified.latent_model import LatentModel
from embedrl.models.unified.model import UnifiedModel
from embedrl.rl.policy_vectors import CUT, PolicyVectors
from embedrl.rl.rollout import draw_seed
from embedrl.tcot.chat import reasoning_chat
from embedrl.types import RetrievalTask, Role, Side
from embedrl.utils.atomic_files import replacing

Mode = Literal["disc", "gen", "latent"]


@dataclass(frozen=True)
class Modes:
    """How a unified model embeds each side. Source: UME-R1 (arXiv 2511.00405).

    Attributes:
        query: `disc`, without reasoning; `gen`, behind it; `latent`, behind the latent steps of a model that takes
            them in place of words, on both sides.
        target: The same of candidates.
        reasoning: Whose reasoning `gen` reads: the model's `own`, written greedily, or the one that the data `given`.
        bounds: Also score both modes on both sides with its own reasoning, and what they could reach at best: the
            better mode per query (`oracle`), and the best of `samples` reasonings per query (`pass`). Both are upper
            bounds: they look at the answer. What reasoning costs is measured with them.
        samples: Reasonings to draw for each query for `pass`, at temperature 1.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    query: Mode = "gen"
    target: Mode = "gen"
    reasoning: Literal["own", "given"] = "own"
    bounds: bool = False
    samples: int = 4

    def __post_init__(self) -> None:
        """Check the values."""
        for flag in ("query", "target"):
            if getattr(self, flag) not in ("disc", "gen", "latent"):
                raise ConfigError(f"--modes.{flag} is {getattr(self, flag)!r}: give disc, gen or latent")
        if (self.query == "latent") != (self.target == "latent"):
            raise ConfigError("--modes: latent steps are for both sides: give latent for query and target")
        if self.reasoning not in ("own", "given"):
            raise ConfigError(f"--modes.reasoning is {self.reasoning!r}: give own or given")
        if self.samples < 1:
            raise ConfigError(f"--modes.samples is {self.samples}: give 1 or more")

    @property
    def roles(self) -> list[Role]:
        """The roles whose sides are embedded behind a reasoning."""
        modes = {Role.QUERY: self.query, Role.TARGET: self.target}
        return [role for role, mode in modes.items() if mode == "gen"]

    @property
    def latent(self) -> bool:
        """Whether both sides are embedded behind latent steps."""
        return self.query == "latent"

    def check(self, backbone: Backbone) -> UnifiedModel:
        """See that a model has the modes.

        Raises:
            ConfigError: If it is no unified model, or lacks a vector.
        """
        if not isinstance(backbone, UnifiedModel):
            raise ConfigError(
                f"--modes: a {type(backbone).__name__} has one mode; give a unified model, or leave it out"
            )
        layout, steps = backbone.arrangement, latent_steps(backbone)
        if steps and (self.roles or (self.bounds and not self.latent)):
            raise ConfigError(
                "--modes: this model reasons in latent steps: give latent for both sides, or disc and no bounds"
            )
        if self.latent and not steps:
            raise ConfigError("--modes: this model takes no latent steps: give disc or gen")
        if not layout.gen and (self.roles or self.bounds):
            raise ConfigError("--modes: this model has no <gen_emb> (its layout says gen: false): give disc for both")
        return backbone

    def apply(self, task: RetrievalTask) -> RetrievalTask:
        """The task, its sides in disc mode without reasoning."""
        return replace(
            task,
            queries=task.queries if Role.QUERY in self.roles else _bare(task.queries),
            candidates=task.candidates if Role.TARGET in self.roles else _bare(task.candidates),
        )

    def count_raw(self, task: RetrievalTask, options: RenderOptions) -> int:
        """The number of sides in gen mode that have no reasoning."""
        sides = {Role.QUERY: task.queries, Role.TARGET: task.candidates}
        return sum(renders_raw(side, options) for role in self.roles for side in sides[role])


def latent_steps(model: UnifiedModel) -> int:
    """Latent steps that a model takes in place of words; 0 of one that writes."""
    return model.latent_steps if isinstance(model, LatentModel) else 0


def _bare(sides: Sequence[Side]) -> list[Side]:
    return [side.with_tcot("") for side in sides]


class ModeScorer:
    """Scores both modes of a unified model on tasks; all processes call together.

    Args:
        modes: The options.
        model: The model, built.
        render: What it reads of a side and its reasoning.
        tcots: How many tokens it writes, and how many prompts at once.
        device: Where it computes.
        out: The file that keeps the figures of the tasks.
        rank: Rank of this process.
    """

    def __init__(
        self,
        modes: Modes,
        model: UnifiedModel,
        render: RenderOptions,
        tcots: TCoTOptions,
        device: torch.device,
        out: Path,
        rank: int = 0,
    ) -> None:
        self.modes, self.model, self.tcots, self.device, self.out, self.rank = modes, model, tcots, device, out, rank
        self._vectors = PolicyVectors(render, tcots.batch_size)
        self._vectors.prepare(model, None)
        self.figures: dict[str, ModeFigures] = {}

    def score(self, task: RetrievalTask) -> ModeFigures | None:
        """The figures of a task, on rank 0; written to the file.

        Args:
            task: The task, without bad sides.

        Raises:
            DataError: If a side cannot be read.
        """
        counterparts = task.candidates[0].modality, task.queries[0].modality
        queries = [TCoTRequest(s, Role.QUERY, counterparts[0], f"query {i}") for i, s in enumerate(task.queries)]
        targets = [
            TCoTRequest(s, Role.TARGET, counterparts[1], f"candidate {i}") for i, s in enumerate(task.candidates)
        ]
        steps, greedy = latent_steps(self.model), self._latent if self.modes.latent else partial(self._behind, n=1)
        name, samples = task.name, 1 if steps else self.modes.samples
        bare, behind = self._timed(name, queries, self._bare), self._timed(name, queries, greedy)
        drawn = behind
        if not steps:
            drawing = partial(self._behind, n=samples, temperature=1.0)
            drawn = self._timed(name, queries, drawing, copies=samples)
        others = [self._timed(name, targets, self._bare).vectors, self._timed(name, targets, greedy).vectors]
        if self.rank != 0:
            return None

        def scores(vectors: Tensor, candidates: Tensor) -> Tensor:
            ranking = rank(vectors, candidates, task.qrels, task.pools, max(KS))
            return per_query_metrics(ranking)[task.main_metric]

        disc, gen = scores(bare.vectors, others[0]), scores(behind.vectors, others[1])
        each = [scores(drawn.vectors[i::samples], others[1]) for i in range(samples)]
        count = len(queries)
        made = ModeFigures(
            task.main_metric, disc.mean().item(), gen.mean().item(), torch.maximum(disc, gen).mean().item(),
            torch.stack(each).amax(0).mean().item(), samples, sum(behind.tokens) / count,
            1.0 if steps else sum(tokens > 1 for tokens in behind.tokens) / count, steps, behind.cut / count,
            1000 * bare.seconds / count, 1000 * behind.seconds / count, self.tcots.batch_size,
        )  # fmt: skip
        self.figures[name] = made
        with replacing(self.out) as part:
            part.write_text(json.dumps({k: asdict(v) for k, v in self.figures.items()}, indent=2) + "\n", "utf-8")
        return made

    def table(self) -> str:
        """The figures as lines of text: bounds are named so."""
        return table(self.figures, self.modes.samples)

    # ---------------------------------------------------------------- parts

    def _bare(self, part: Sequence[TCoTRequest]) -> tuple[Tensor, list[int], int]:
        """Vectors without reasoning, which takes no tokens."""
        sides, where = [item.side for item in part], [item.where for item in part]
        return self._vectors.embed_bare(sides, where, self.device), [0] * len(part), 0

    def _latent(self, part: Sequence[TCoTRequest]) -> tuple[Tensor, list[int], int]:
        """Vectors behind latent steps, which write nothing."""
        sides, where = [item.side for item in part], [item.where for item in part]
        return self._vectors.embed(sides, where, self.device), [0] * len(part), 0

    def _behind(self, part: Sequence[TCoTRequest], n: int, temperature: float = 0.0) -> tuple[Tensor, list[int], int]:
        """Vectors behind n reasonings a side, side by side; tokens of each; how many were cut off."""
        preprocessor = self.model.preprocessor()
        chats = [reasoning_chat(item.side, item.role, item.counterpart, self.tcots.style) for item in part]
        prompts = {name: value.to(self.device) for name, value in preprocessor.prompts(chats).items()}
        options = SamplingOptions(self.tcots.max_new_tokens, temperature)
        seeds = [draw_seed(0, n, f"{item.side.key}/{item.role}") for item in part]
        replies = [reply for row in self.model.sample(prompts, n, seeds, options) for reply in row]
        sides = [item.side for item in part for _ in range(n)]
        repairs: Counter[str] = Counter()
        vectors = self._vectors.embed(
            [side.with_tcot(reply.text) for side, reply in zip(sides, replies, strict=True)],
            [item.where for item in part for _ in range(n)], self.device, repairs=repairs,
        )  # fmt: skip
        return vectors, [len(reply.tokens) for reply in replies], repairs[CUT]

    @torch.no_grad()
    def _timed(
        self,
        task: str,
        requests: Sequence[TCoTRequest],
        work: Callable[[Sequence[TCoTRequest]], tuple[Tensor, list[int], int]],
        copies: int = 1,
    ) -> _Work:
        """Do work on this process's share, and put the results of all in order."""
        mine, size = range(self.rank, len(requests), world_size()), self.tcots.batch_size
        done: list[tuple[int, Tensor, list[int]]] = []
        cut, seconds = 0, 0.0
        for start in range(0, len(mine), size):
            places = mine[start : start + size]
            try:
                begun = time.perf_counter()
                vectors, tokens, missing = work([requests[i] for i in places])
                vectors = vectors.cpu()  # waits for the device
                seconds += time.perf_counter() - begun
            except DataError as error:
                raise DataError(f"{task}: {error}", error.cause) from error
            cut += missing
            for row, place in enumerate(places):
                own = slice(row * copies, (row + 1) * copies)
                done.append((place, vectors[own], tokens[own]))
        everything = sorted(gather_objects(done), key=lambda item: item[0])
        return _Work(
            torch.cat([vectors for _, vectors, _ in everything]),
            [count for _, _, counts in everything for count in counts],
            sum(gather_objects([cut])),
            sum(gather_objects([seconds])),
        )


@dataclass(frozen=True)
class _Work:
    """Vectors in the order of the sides, tokens of each, how many were cut off, seconds over all processes."""

    vectors: Tensor
    tokens: list[int]
    cut: int
    seconds: float
