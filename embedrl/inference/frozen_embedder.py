"""How well T-CoTs retrieve: a Reasoner writes one for every side of a task, the frozen Embedder ranks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from embedrl.data.collate import EncodeCollator, group_micro_batches, micro_batches
from embedrl.data.inputs import BundlePreprocessor, GroupPreprocessor, ModelInputs
from embedrl.data.lenient_render import as_lenient, fitting_chat
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.opened import open_side
from embedrl.data.render import RenderOptions
from embedrl.data.side_dataset import EncodeDataset
from embedrl.data.variants import Variant, variant_chat
from embedrl.distributed.collectives import world_size
from embedrl.distributed.fsdp2 import FSDP2Strategy, build_frozen
from embedrl.errors import ConfigError, NonFiniteError
from embedrl.metrics.retrieval import RankingMetric
from embedrl.metrics.task_scorer import TaskResult, TaskScorer
from embedrl.models.backbone import Backbone
from embedrl.models.generator import Generator
from embedrl.tcot.schema import ParseResult
from embedrl.types import Chat, RetrievalTask, Side
from embedrl.utils.ragged import cat_rows

_log = logging.getLogger(__name__)

LENIENT = RenderOptions(on_bad_tcot="lenient", on_missing_tcot="raw")
"""How to render a Reasoner's T-CoTs: leniently, with the parts that can be read."""


class FrozenEmbedder:
    """A backbone that only embeds: built when first used, never trained.

    Args:
        backbone: The Embedder, such as a `QwenVLBackbone` on an exported folder.
        render: What it reads of a side and its T-CoT; always leniently, as a Reasoner writes the T-CoTs.
        micro_batch_size: Sides that go through it at once.
        shared_prefix: Compute a side that comes with several T-CoTs once, with its pictures; the vectors do not depend
            on it. A backbone that cannot (`Backbone.shares_prefix`) reads it anew for each, which the log says once.

    Raises:
        ConfigError: If the backbone gives one vector a token (`LateInteraction`).
    """

    def __init__(
        self,
        backbone: Backbone,
        render: RenderOptions = LENIENT,
        micro_batch_size: int = 32,
        shared_prefix: bool = True,
    ) -> None:
        check_single(backbone, "FrozenEmbedder")
        self.backbone, self.render, self.micro_batch_size = backbone, render, micro_batch_size
        self.shared_prefix, self._told, self._said = shared_prefix, False, False

    def prepare(self, policy: Generator, strategy: Strategy | None) -> None:
        """Load the weights where all processes must do so together, under FSDP2; else they load when first used.

        Args:
            policy: The policy whose rollouts will be embedded.
            strategy: The trainer's strategy.
        """
        if isinstance(strategy, FSDP2Strategy):
            build_frozen(self.backbone, strategy)

    def build(self, device: torch.device) -> Backbone:
        """Load the weights, freeze them, move them."""
        return frozen(self.backbone, device)

    @torch.no_grad()
    def embed(
        self,
        sides: Sequence[Side],
        where: Sequence[str],
        device: torch.device,
        parsed: Sequence[ParseResult] | None = None,
        repairs: Counter[str] | None = None,
    ) -> Tensor:
        """Unit vectors of sides with their T-CoTs, `[sides, dim]`.

        What a Reasoner writes is never an error: see `fitting_chat`. Equal sides are embedded once, and sides that
        differ in their T-CoTs alone have their pictures opened once. The pixels of one micro-batch at a time are
        processed, however many sides there are.

        Args:
            sides: What to embed, at least one.
            where: A name of each for errors.
            device: Where to embed.
            parsed: What the parser says about each T-CoT; None parses them.
            repairs: Where to count, over the sides, what was repaired in T-CoTs: see `fitting_chat`.

        Raises:
            DataError: If a side cannot be shown even without its T-CoT, naming it.
            NonFiniteError: Naming a side whose vector is NaN or infinite.
        """
        return self.embed_variants(sides, where, device, (), parsed, repairs)[0]

    @torch.no_grad()
    def embed_variants(
        self,
        sides: Sequence[Side],
        where: Sequence[str],
        device: torch.device,
        variants: Sequence[Variant],
        parsed: Sequence[ParseResult] | None = None,
        repairs: Counter[str] | None = None,
    ) -> Tensor:
        """Unit vectors of sides with their T-CoTs, and with parts of them, `[1 + variants, sides, dim]`.

        On a backbone with `shares_prefix` in one pass: the variants of a T-CoT are branches of one sequence, under a
        mask that hides them from one another. Others embed every variant as a chat of its own.

        Args:
            sides: As in `embed`, like those not named here.
            where: A name of each for errors.
            device: Where to embed.
            variants: What of the T-CoTs to embed beside the whole; needs `render.tcot: full` with `cues: on`.
            parsed: What the parser says about each T-CoT.
            repairs: Where to count what was repaired.

        Raises:
            ConfigError: If the Embedder does not read whole T-CoTs with their evidence.
        """
        backbone = self.build(device)
        self._check_variants(variants, backbone)
        contents = [(side.key, side.tcot) for side in sides]
        unique = {content: i for i, content in reversed(list(enumerate(contents)))}
        preprocessor, options = backbone.preprocessor(), as_lenient(self.render)
        copies = Counter(contents)
        opened: dict[str, Side] = {}
        chats: list[Chat] = []
        rows: dict[tuple[str, str, Variant | None], int] = {}  # where the vector of each content and variant stands
        bundles: list[int] = []  # the position of the side that each chat shows
        for (key, tcot), i in unique.items():
            if key not in opened:
                opened[key] = open_side(sides[i], where[i])
            known = None if parsed is None else parsed[i]
            repaired: Counter[str] = Counter()
            side = opened[key].with_tcot(tcot)
            chat = fitting_chat(side, options, preprocessor, where[i], known, repaired)
            if repairs is not None:
                repairs.update(list(repaired) * copies[key, tcot])
            for variant in (None, *variants):
                name = (key, "" if variant == "none" else tcot, variant)
                if name not in rows:
                    rows[name] = len(chats)
                    chats.append(chat if variant is None else variant_chat(chat, side, variant))
                    bundles.append(i)
        names = [where[i] for i in bundles]
        if self.shared_prefix and backbone.shares_prefix:
            keys, grouping = [contents[i][0] for i in bundles], cast(GroupPreprocessor, preprocessor)
            batches: Iterable[ModelInputs]
            # The variants of a T-CoT are a few tokens more: they count as one chat with it.
            size = self.micro_batch_size * (1 + len(variants))
            batches, order = group_micro_batches(chats, keys, names, grouping, size, bundles if variants else None)
        else:
            count = -(-len(chats) // self.micro_batch_size)
            batches, order = micro_batches(chats, names, preprocessor, count)
            self._tell(len(unique) - len(opened))
        vectors = encode(backbone, batches, order, device)
        picked = [[rows[key, "" if v == "none" else tcot, v] for key, tcot in contents] for v in (None, *variants)]
        vectors = vectors[torch.tensor(picked, device=device)]
        bad = (~torch.isfinite(vectors).all(2)).any(0).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(f"{where[bad[0]]}: the frozen Embedder's vector is NaN or infinite")
        return vectors

    def _tell(self, copies: int) -> None:
        """Say once that sides which come with several T-CoTs are read anew for each.

        Args:
            copies: How many times a side is read that was read before.
        """
        if self.shared_prefix and copies and not self._told:
            self._told = True
            _log.warning(
                "embedder.shared_prefix: a %s cannot keep texts in one row apart, so a side is read again with its "
                "pictures for each of its T-CoTs; false gives the same",
                type(self.backbone).__name__,
            )

    def _check_variants(self, variants: Sequence[Variant], backbone: Backbone) -> None:
        """See that variants differ from the whole, and say what they cost where they are no branches."""
        if not variants:
            return
        if self.render.tcot != "full" or (self.render.cues != "on" and "no_evidence" in variants):
            raise ConfigError(
                f"embedder.render.tcot is {self.render.tcot}, render.cues {self.render.cues}: rewards of parts of a "
                "T-CoT (step credit, counterfactual evidence) need an Embedder that reads it whole, cues: on"
            )
        branching = isinstance(backbone.preprocessor(), BundlePreprocessor) and backbone.shares_prefix
        if not (branching and self.shared_prefix) and not self._said:
            self._said = True
            cause = "embedder.shared_prefix is false" if branching else "its rows hold one text each"
            _log.warning(
                "a %s embeds the parts of a T-CoT (%s) one after another: %d passes in place of one (%s)",
                type(backbone).__name__, ", ".join(variants), 1 + len(variants), cause,
            )  # fmt: skip

    @torch.no_grad()
    def score(
        self,
        tasks: Sequence[RetrievalTask],
        device: torch.device,
        rank: int = 0,
        metrics: Sequence[RankingMetric] | None = None,
        skipped: list[BadSample] | None = None,
    ) -> list[TaskResult]:
        """Embed every side of every task, distributed over ranks, and rank the candidates.

        Args:
            tasks: The tasks, their sides with T-CoTs.
            device: Where to embed.
            rank: Rank of this process.
            metrics: What to compute of every task; None: hit@1, hit@5, hit@10 and ndcg@5.
            skipped: Where to put the bad sides that this process met; tasks are scored without those of all processes.
                None stops at the first.

        Raises:
            DataError: If a side is bad and `skipped` is None, or nothing is left of a task.
        """
        backbone = self.build(device)
        options, preprocessor = as_lenient(self.render), backbone.preprocessor()
        on_bad: OnBadMode = "raise" if skipped is None else "skip"
        sides = EncodeDataset(tasks, options, self.micro_batch_size, rank, world_size(), preprocessor, on_bad)
        collate = EncodeCollator(preprocessor, self.micro_batch_size, on_bad=on_bad)
        scorer = TaskScorer(tasks, metrics)
        for index in range(len(sides)):
            batch = collate(sides[index])
            scorer.add(batch.items, encode(backbone, batch.micro_batches, batch.order, device), batch.bad)
            if skipped is not None:
                skipped += batch.bad.values()
        return scorer.results()


def frozen(backbone: Backbone, device: torch.device) -> Backbone:
    """The backbone with its weights, frozen, on the device."""
    backbone.build()
    backbone.requires_grad_(False).eval()
    return backbone.to(device)


def check_single(backbone: Backbone, user: str) -> None:
    """Check that a backbone gives one vector a side.

    Args:
        backbone: The Embedder.
        user: What needs it, such as `embedrl mine`.

    Raises:
        ConfigError: If it gives one vector a token.
    """
    if backbone.multi_vector:
        raise ConfigError(
            f"{user}: a {type(backbone).__name__} gives one vector a token, which this cannot use; give an Embedder "
            "with one vector a side, such as QwenVLBackbone"
        )


def encode(backbone: Backbone, batches: Iterable[ModelInputs], order: Tensor, device: torch.device) -> Tensor:
    """Vectors of the micro-batches, in the order before they were sorted by length."""
    moved = ({name: value.to(device) for name, value in inputs.items()} for inputs in batches)
    return cat_rows([backbone(inputs) for inputs in moved])[order.to(device).argsort()]
