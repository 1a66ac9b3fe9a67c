"""Late interaction: any vision-language backbone with one vector a token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from embedrl.data.inputs import Preprocessor
from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.models.backbone import Backbone, ModelInputs
from embedrl.models.late_interaction_files import is_late, read_head, write_late
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.routing import Routing
from embedrl.models.token_pooling import TokenPooling, mean_of_groups, token_groups
from embedrl.models.vlm.backbone import VLMBackbone


class LateInteraction(Backbone):
    """A vision-language model that gives one vector a token, compared by MaxSim (`embedrl.losses.MaxSimInfoNCE`).

    The last hidden states go through a linear layer to `dim` numbers and are L2-normalised. Every token of the chat up
    to `<emb>` counts, those of pictures included. Queries and targets are read alike, as in the rest of the kit: the
    summary line and `<emb>`, which close every chat, stand where ColBERT and ColQwen append tokens to a query. A side
    with more tokens than `budget` is pooled; a query of fewer keeps all of its own.

    Source: ColBERT (arXiv 2004.12832) §3.2; ColPali and ColQwen (arXiv 2407.01449) §4.

    Args:
        backbone: The vision-language model, such as a `QwenVLBackbone`; a folder that was exported from a
            `LateInteraction` brings its projection.
        dim: Length of a token's vector.
        budget: At most this many vectors a side; null keeps all.
        pooling: How more tokens are put together, see `token_groups`: `hierarchical` (clusters of like tokens) or
            `sequential` (neighbours).

    Raises:
        ConfigError: If `dim` or `budget` is below 1, or the backbone gives no hidden states of tokens.
    """

    multi_vector = True

    def __init__(
        self,
        backbone: Backbone,
        dim: int = 128,
        budget: int | None = 64,
        pooling: TokenPooling = "hierarchical",
    ) -> None:
        super().__init__()
        if not isinstance(backbone, QwenVLBackbone | VLMBackbone):
            raise ConfigError(
                f"backbone.backbone is {type(backbone).__name__}, which gives no hidden states of tokens: "
                "take embedrl.QwenVLBackbone or embedrl.VLMBackbone"
            )
        if dim < 1:
            raise ConfigError(f"backbone.dim is {dim}: give 1 or more, such as 128")
        if budget is not None and budget < 1:
            raise ConfigError(
                f"backbone.budget is {budget}: give 1 or more vectors a side, such as 64, or null for all"
            )
        self.backbone, self.dim, self.budget, self.pooling = backbone, dim, budget, pooling
        self.head: nn.Linear | None = None
        self._groups: list[list[Tensor]] | None = None

    @property
    def path(self) -> str:
        """The checkpoint of the vision-language model."""
        return self.backbone.path

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens."""
        return self.backbone.max_length

    @property
    def routing(self) -> Routing | None:
        """The vision-language model's."""
        return self.backbone.routing

    @property
    def merges(self) -> bool:
        """The vision-language model's."""
        return self.backbone.merges

    def build(self) -> None:
        """See `Backbone.build`; the projection is new, or comes from the folder that the backbone is loaded from.

        Raises:
            CheckpointError: If the weights cannot be read, or the projection is of another shape.
        """
        if self.head is None:
            self.backbone.build()
            head = self._new_head()
            if is_late(self.path):
                weight = read_head(self.path)
                if weight.shape != head.weight.shape:
                    raise CheckpointError(
                        f"{self.path}: its projection is of {list(weight.shape)}, the backbone's of "
                        f"{list(head.weight.shape)}: set backbone.dim to {len(weight)}"
                    )
                with torch.no_grad():
                    head.weight.copy_(weight)
            self.head = head

    def build_on_meta(self) -> None:
        """See `Backbone.build_on_meta`."""
        if self.head is None:
            self.backbone.build_on_meta()
            with torch.device("meta"):
                self.head = self._new_head()

    def _new_head(self) -> nn.Linear:
        # FSDP2 shards trained parameters of one type together.
        trained = [p.dtype for p in self.backbone.parameters() if p.requires_grad]
        size = self.backbone.core.config.get_text_config().hidden_size
        return nn.Linear(size, self.dim, bias=False, dtype=trained[0] if trained else torch.float32)

    def preprocessor(self) -> Preprocessor:
        """The vision-language model's."""
        return self.backbone.preprocessor()

    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch.

        Returns:
            Unit vectors of tokens, float32, `[chats, most tokens of a chat, dim]`, padded with zeros.

        Raises:
            DataError: If a row holds no `<emb>`.
        """
        assert self.head is not None
        hidden = self.backbone.hidden_states(inputs)
        if isinstance(self, FSDPModule) and torch.is_grad_enabled():
            # A rank without pictures must have the gradients of what the others train beside the sharded layers.
            layers = {id(p) for unit in self.shard_units() for p in unit.parameters()}
            rest = [p for p in self.backbone.parameters() if p.requires_grad and id(p) not in layers]
            hidden = hidden + 0 * sum(p.float().sum() for p in rest)
        vectors = functional.normalize(self.head(hidden.to(self.head.weight.dtype)).float(), dim=-1)
        mask = self._kept(inputs)
        sides = [row[kept] for row, kept in zip(vectors, mask, strict=True)]
        if self.budget is not None:
            sides = self._pooled(sides)
        return pad_sequence(sides, batch_first=True)

    def _kept(self, inputs: ModelInputs) -> Tensor:
        """Which tokens have a vector: those of the chat up to its last `<emb>`, `[chats, length]`."""
        marks = inputs["input_ids"] == self.backbone.emb_token_id
        if not bool(marks.any(1).all()):
            raise DataError("a row of the micro-batch holds no <emb> token: render the chat with one")
        upto = marks.flip(1).cumsum(1).flip(1) > 0
        return inputs["attention_mask"].bool() & upto

    def _pooled(self, sides: list[Tensor]) -> list[Tensor]:
        """Sides within the budget; a second pass over a micro-batch puts the same tokens together as its first."""
        assert self.budget is not None
        if self._groups:
            groups = self._groups[0]
        else:
            groups = [token_groups(side.detach(), self.budget, self.pooling) for side in sides]
            if self._groups is not None:
                self._groups.append(groups)
        return [mean_of_groups(side, group) for side, group in zip(sides, groups, strict=True)]

    @contextmanager
    def cache_vision_features(self, seen: list[Any]) -> Iterator[None]:
        """See `Backbone.cache_vision_features`; keeps which tokens were put together, too."""
        if not seen:
            seen += [[], []]
        self._groups = seen[1]
        try:
            with self.backbone.cache_vision_features(seen[0]):
                yield
        finally:
            self._groups = None

    def shard_units(self) -> list[nn.Module]:
        """The vision-language model's."""
        return self.backbone.shard_units()

    def _options(self) -> dict[str, Any]:
        return {"dim": self.dim, "budget": self.budget, "pooling": self.pooling}

    def reading_options(self) -> dict[str, Any]:
        """The vision-language model's, and what becomes of its tokens."""
        return self.backbone.reading_options() | self._options()

    def export(self, out: Path, merge: bool = True) -> None:
        """Write the vision-language model's folder, with the projection, as sentence-transformers' multi-vector model.

        Args:
            out: The folder to write.
            merge: True folds LoRA into the weights; False writes the adapter and the projection.
        """
        assert self.head is not None
        self.backbone.export(out, merge)
        write_late(out, self.head.weight, self._options(), merge and self.backbone.differences.ends_at_emb)
