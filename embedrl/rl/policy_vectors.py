"""The vectors of rollouts by the policy itself: a unified model in training judges its own reasoning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from embedrl.data.collate import micro_batches
from embedrl.data.lenient_render import as_lenient, fitting_chat
from embedrl.data.on_bad import BadSample
from embedrl.data.opened import open_side
from embedrl.data.render import RenderOptions, render
from embedrl.data.variants import Variant
from embedrl.distributed.unshard import unsharded
from embedrl.errors import ConfigError, NonFiniteError
from embedrl.inference.frozen_embedder import FrozenEmbedder, encode
from embedrl.metrics.retrieval import RankingMetric
from embedrl.metrics.task_scorer import TaskResult
from embedrl.models.dropout import evaluating
from embedrl.models.generator import Generator
from embedrl.models.unified.latent_model import LatentModel
from embedrl.models.unified.model import UnifiedModel
from embedrl.tcot.schema import ParseResult
from embedrl.types import Chat, RetrievalTask, Side
from embedrl.utils.reserved_words import GEN_TOKEN

CUT = "no_gen_emb"
"""What is counted of rollouts that ended without `<gen_emb>`, their evidence not coming after them."""


class PolicyVectors(FrozenEmbedder):
    """Takes the place of the frozen Embedder where the policy is a unified model: the current policy embeds.

    Vectors carry no gradient. A rollout is embedded at its `<gen_emb>`, or behind its evidence; one that ended without
    `<gen_emb>` (cut off, or it ended its turn) at its last token, which is counted as `rollout/no_gen_emb`. Of a policy
    whose layout has a gate, a rollout that is `<gen_emb>` alone does not reason: its side is embedded at `<disc_emb>`.

    Args:
        render: What is read of a side and its rollout: `tcot: as_written` the rollout as it stands, `tcot: full` with
            its evidence; always leniently.
        micro_batch_size: Sides that go through it at once.

    Source: UME-R1 (arXiv 2511.00405).
    """

    def __init__(
        self,
        render: RenderOptions = RenderOptions(tcot="as_written"),  # noqa: B008 (frozen)
        micro_batch_size: int = 32,
    ) -> None:
        self.render, self.micro_batch_size = render, micro_batch_size
        self.shared_prefix = False
        self._policy: list[UnifiedModel] = []

    @property
    def backbone(self) -> UnifiedModel:  # type: ignore[override]  # the policy's, not an own one
        """The policy."""
        if not self._policy:
            raise ConfigError("embedrl.rl.PolicyVectors embeds with the policy of an EGRLModule: name it there")
        return self._policy[0]

    def prepare(self, policy: Generator, strategy: Strategy | None) -> None:
        """Take the policy.

        Raises:
            ConfigError: If it has no vectors, or reads no rollouts.
        """
        if not isinstance(policy, UnifiedModel):
            raise ConfigError(
                f"model.embedder: embedrl.rl.PolicyVectors needs a policy that embeds, such as embedrl.QwenVLUnified, "
                f"not a {type(policy).__name__}"
            )
        if isinstance(policy, LatentModel) and policy.latent_steps and self.render.tcot != "latent":
            raise ConfigError(
                "model.generator takes latent steps in place of words: it would read none of its rollouts; take an "
                "embedrl.QwenVLUnified, or latent_steps: 0"
            )
        self._policy = [policy]

    def build(self, device: torch.device) -> UnifiedModel:
        """The policy as it is."""
        return self.backbone

    @contextmanager
    def _whole(self) -> Iterator[None]:
        with unsharded(self.backbone), evaluating(self.backbone):
            yield

    @torch.no_grad()
    def embed(
        self,
        sides: Sequence[Side],
        where: Sequence[str],
        device: torch.device,
        parsed: Sequence[ParseResult] | None = None,
        repairs: Counter[str] | None = None,
    ) -> Tensor:
        """Unit vectors of sides with their rollouts, `[sides, dim]`; see `FrozenEmbedder.embed`."""
        opened: dict[str, Side] = {}
        repaired: Counter[str] = Counter()
        preprocessor, options = self.backbone.preprocessor(), as_lenient(self.render)
        chats = []
        for side, name in zip(sides, where, strict=True):
            if side.key not in opened:
                opened[side.key] = open_side(side, name)
            whole = side.tcot.endswith(GEN_TOKEN)
            side = opened[side.key].with_tcot(side.tcot.removesuffix(GEN_TOKEN))
            own: Counter[str] = Counter()
            chat = fitting_chat(side, options, preprocessor, name, None, own)
            if not (whole and not side.tcot.strip() and self.backbone.arrangement.gate):
                chat = _as_rollout(chat, whole, own)
            chats.append(chat)
            repaired.update(list(own))
        if repairs is not None:
            repairs.update(repaired)
        return self._encoded(chats, where, device)

    def embed_variants(
        self,
        sides: Sequence[Side],
        where: Sequence[str],
        device: torch.device,
        variants: Sequence[Variant] = (),
        parsed: Sequence[ParseResult] | None = None,
        repairs: Counter[str] | None = None,
    ) -> Tensor:
        """Unit vectors of sides with their rollouts, and without (`none`), `[1 + variants, sides, dim]`.

        Raises:
            ConfigError: If a reward asks for vectors of parts of a T-CoT; or for those of sides alone, and the policy
                has no gate.
        """
        if set(variants) - {"none"}:
            raise ConfigError(
                "embedrl.rl.PolicyVectors embeds rollouts whole: rewards of their parts (step credit, counterfactual "
                "evidence) need a FrozenEmbedder"
            )
        if variants and not self.backbone.arrangement.gate:
            raise ConfigError(
                "model.rewards: a reward compares rollouts with sides that are not reasoned about: train the policy "
                "with layout.gate: true first"
            )
        vectors = [self.embed(sides, where, device, parsed, repairs)]
        for _ in variants:
            first = {side.with_tcot("").key: i for i, side in reversed(list(enumerate(sides)))}  # a group shares one
            bare = self.embed_bare([sides[i] for i in first.values()], [where[i] for i in first.values()], device)
            rows = dict(zip(first, bare, strict=True))
            vectors.append(torch.stack([rows[side.with_tcot("").key] for side in sides]))
        return torch.stack(vectors)

    @torch.no_grad()
    def embed_bare(self, sides: Sequence[Side], where: Sequence[str], device: torch.device) -> Tensor:
        """Unit vectors of sides without reasoning, `[sides, dim]`.

        Args:
            sides: What to embed.
            where: A name of each for errors.
            device: Where to embed.
        """
        options = replace(as_lenient(self.render), tcot="none")
        chats = [render(open_side(side, name), options, where=name) for side, name in zip(sides, where, strict=True)]
        return self._encoded(chats, where, device)

    def _encoded(self, chats: Sequence[Chat], where: Sequence[str], device: torch.device) -> Tensor:
        count = -(-len(chats) // self.micro_batch_size)
        with self._whole():
            batches, order = micro_batches(chats, where, self.backbone.preprocessor(), count)
            vectors = encode(self.backbone, batches, order, device)
        bad = (~torch.isfinite(vectors).all(1)).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(f"{where[bad[0]]}: the policy's vector is NaN or infinite; lower the learning rate")
        return vectors

    def score(
        self,
        tasks: Sequence[RetrievalTask],
        device: torch.device,
        rank: int = 0,
        metrics: Sequence[RankingMetric] | None = None,
        skipped: list[BadSample] | None = None,
    ) -> list[TaskResult]:
        """See `FrozenEmbedder.score`; every reasoning counts as whole."""
        with self._whole():
            return super().score(tasks, device, rank, metrics, skipped)


def _as_rollout(chat: Chat, whole: bool, repaired: Counter[str]) -> Chat:
    """The chat of a side with its rollout, be it empty or cut off; what was cut off is counted."""
    content: list[dict[str, Any]] = list(chat[0]["content"])
    if not any(part.get("reasoning") for part in content):
        content.append({"type": "text", "text": "", "reasoning": True})
    if not whole and not any(part.get("evidence") for part in content):
        repaired[CUT] += 1
        content = [part | {"cut": True} if part.get("reasoning") else part for part in content]
    return [chat[0] | {"content": content}, *chat[1:]]
