"""Embedders as models of mteb (`pip install 'embedrl[mteb]'`): `mteb.evaluate(embedrl.mteb.encoder(FOLDER), tasks)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embedrl.api.embedder import Array, Embedder
from embedrl.api.reasoner import Reasoner
from embedrl.errors import ConfigError
from embedrl.evaluation.identity import key_of
from embedrl.models.backbone import Backbone
from embedrl.models.generator import Generator
from embedrl.models.weights_hash import weights_hash

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

_PARTS = ("text", "image", "video")


class EncoderForMteb:
    """An Embedder that mteb evaluates; implements mteb's `EncoderProtocol`.

    Pictures are read as in training (transparency on white), videos by as many frames as the Embedder samples, and mteb
    ranks by the dot product, which is the cosine of unit vectors.

    Args:
        embedder: The Embedder, with its Reasoner if there is one.
        name: Its name in mteb's results, as `ORGANISATION/MODEL`.
        instructions: Put the prompt that a task's metadata hold for queries or documents in front of their texts.

    Raises:
        ConfigError: If mteb is missing, or the name is none of mteb's form.
    """

    def __init__(self, embedder: Embedder, name: str, instructions: bool = False) -> None:
        if name.count("/") != 1:
            raise ConfigError(f"name {name!r}: mteb files results by ORGANISATION/MODEL; give such a name")
        self.embedder, self.name, self.instructions = embedder, name, instructions
        self.mteb_model_meta = self._describe()

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **_: Any,
    ) -> Array:
        """The vectors of what a task gives, `[inputs, dim]`.

        Args:
            inputs: mteb's loader of batches.
            task_metadata: What the task says of itself.
            hf_split: The split, which vectors do not depend on.
            hf_subset: The subset, which vectors do not depend on.
            prompt_type: Query or document; what a task compares with its own kind counts as a query.

        Raises:
            DataError: If an input cannot be read; the message names the task and the position.
        """
        kind = str(getattr(prompt_type, "value", prompt_type) or "query")
        features = getattr(inputs.dataset, "features", {})
        if "video" in features:
            from mteb.models.modality_collators import VideoCollator

            inputs.collate_fn = VideoCollator(target_sampling_rate=16_000, num_frames=self.embedder.num_frames)
        vectors = [
            self.embedder.encode(
                items,
                role="target" if kind == "document" else "query",
                instruction=self._instruction(task_metadata, kind),
                progress=False,
            )
            for items in _items(inputs)
        ]
        return np.concatenate(vectors) if vectors else np.zeros((0, self.embedder.dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of unit vectors, `[a, b]`."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of each unit vector with its partner, `[a]`."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)

    def _instruction(self, task_metadata: Any, kind: str) -> str | None:
        """What the task's metadata say about inputs of a kind; a prompt without kinds is the queries'."""
        prompt = task_metadata.prompt if self.instructions else None
        if isinstance(prompt, dict):
            return prompt.get(kind)
        return prompt if kind == "query" else None

    def _revision(self) -> str:
        """What the vectors depend on: mteb takes results of an equal revision from its cache."""
        reasoner = self.embedder.reasoner
        seen: dict[str, Any] = {"embedder": self.embedder.fingerprint, "prompts": self.instructions}
        if reasoner is not None:
            seen["reasoner"] = weights_hash(reasoner.generator)
            seen["writing"] = [reasoner.style, reasoner.max_new_tokens]
        return key_of(seen)

    def _describe(self) -> ModelMeta:
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError as error:
            raise ConfigError("embedrl.mteb needs mteb: run pip install 'embedrl[mteb]'") from error
        backbone = self.embedder.backbone
        size = sum(parameter.numel() for parameter in backbone.parameters())
        limit = getattr(backbone, "max_length", None)
        return ModelMeta.create_empty(
            {
                "name": self.name,
                "revision": self._revision(),
                "n_parameters": size,
                "max_tokens": limit if isinstance(limit, int) else None,
                "embed_dim": self.embedder.dim,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": self.instructions,
                "modalities": list(_PARTS),
            }
        )


def encoder(
    model: str | Path | Backbone | Embedder,
    reasoner: str | Path | Generator | Reasoner | None = None,
    *,
    name: str | None = None,
    instructions: bool = False,
    **options: Any,
) -> EncoderForMteb:
    """An Embedder as a model of mteb; with a Reasoner, every query and document is read with its T-CoT.

    Args:
        model: An Embedder, or what `Embedder.from_pretrained` takes.
        reasoner: A Reasoner, or what `Reasoner.from_pretrained` takes.
        name: Its name in mteb's results; None means `embedrl/` and the name of the folder, with `-tcot` behind it if
            there is a Reasoner.
        instructions: Put the prompt that a task's metadata hold in front of texts.
        **options: More of `Embedder.from_pretrained`.

    Raises:
        ConfigError: If mteb is missing, or an option is wrong.
        CheckpointError: If a model cannot be read.
    """
    if not isinstance(model, Embedder):
        embedder = Embedder.from_pretrained(model, reasoner=reasoner, **options)
    elif reasoner is None and not options:
        embedder = model
    else:
        raise ConfigError("encoder: an Embedder brings its Reasoner and its options; give them to from_pretrained")
    if name is None:
        given = type(embedder.backbone).__name__ if isinstance(model, Embedder | Backbone) else Path(model).name
        name = f"embedrl/{given.replace(':', '-')}{'' if embedder.reasoner is None else '-tcot'}"
    return EncoderForMteb(embedder, name, instructions)


def raw_and_tcot(
    model: str | Path | Backbone,
    reasoner: str | Path | Generator | Reasoner,
    *,
    instructions: bool = False,
    **options: Any,
) -> tuple[EncoderForMteb, EncoderForMteb]:
    """One Embedder as two models of mteb, to compare: without T-CoTs, and with those of a Reasoner.

    Args:
        model: What `Embedder.from_pretrained` takes.
        reasoner: A Reasoner, or what `Reasoner.from_pretrained` takes.
        instructions: See `encoder`.
        **options: More of `Embedder.from_pretrained`.

    Raises:
        ConfigError: If mteb is missing, or an option is wrong.
        CheckpointError: If a model cannot be read.
    """
    reasoned = encoder(model, reasoner, instructions=instructions, **options)
    whole = reasoned.embedder
    raw = Embedder(whole.backbone, None, whole.device, whole.micro_batch_size, whole.render, whole.num_frames)
    return EncoderForMteb(raw, reasoned.name.removesuffix("-tcot"), instructions), reasoned


def _items(inputs: Any) -> Iterator[list[dict[str, Any]]]:
    """Mteb's batches as items, with the columns that an Embedder reads."""
    for batch in inputs:
        columns = [name for name in _PARTS if name in batch]
        yield [dict(zip(columns, row, strict=True)) for row in zip(*(batch[name] for name in columns), strict=True)]
