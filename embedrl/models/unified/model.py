"""A vision-language model that reasons and embeds, of any family. Source: UME-R1 (arXiv 2511.00405)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from embedrl.data.inputs import ModelInputs
from embedrl.errors import DataError
from embedrl.models.adapters import adapter_base, adapter_tokens, add_token_rows
from embedrl.models.backbone import Backbone
from embedrl.models.export_options import read_options
from embedrl.models.lora import LoRAOptions
from embedrl.models.packing import IGNORE, token_logprobs
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.sampling import SampledReply, SamplingOptions
from embedrl.models.unified.layout import UnifiedLayout, stored_layout
from embedrl.models.unified.preprocess import UnifiedPreprocessor
from embedrl.models.unified.tokens import add_tokens, prepare_rows, source_ids
from embedrl.models.vlm.base import VisionLanguageModel
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.utils.reserved_words import GEN_TOKEN


class UnifiedModel(VisionLanguageModel, PolicyGenerator, Backbone):
    """A vision-language model with its LM head and two vectors: at `<disc_emb>`, and at `<gen_emb>` behind reasoning.

    As a `Backbone` it embeds a side without reasoning at `<disc_emb>` (disc mode), one with reasoning at `<gen_emb>`
    (gen mode). As a `Generator` it writes the reasoning. Subclasses say how their family reads.

    Attributes:
        layout: What it reads and writes of a side; None: what the folder says that it is loaded from, or the default.
        token_ids: Ids of `<disc_emb>` and `<gen_emb>`.
    """

    forward_methods = ("encode", "outputs", "reply_vectors", "loss", "generate", "sample", "reply_logprobs")
    layout: UnifiedLayout | None
    _stored_layout: UnifiedLayout | None = None
    _new_tokens: tuple[int, ...] = ()

    @property
    def arrangement(self) -> UnifiedLayout:
        """The layout that holds: chosen, stored, or the default."""
        self.processor  # noqa: B018 - reads what the folder says
        return self.layout or self._stored_layout or UnifiedLayout()

    @property
    def processor(self) -> Any:
        """The family's processor, loaded at first use, whose tokenizer knows the two tokens."""
        if self._processor is None:
            processor = super().processor
            self._processor = None  # if the following fails
            self._stored_layout = self._read_layout()
            ids, new = add_tokens(processor.tokenizer, self.networks.config(self.path), self.path)
            self.token_ids, self._new_tokens = (ids[0], ids[1]), tuple(new)
            self._processor = processor
        return self._processor

    def _read_layout(self) -> UnifiedLayout | None:
        return stored_layout(*self._stored_options())

    def _stored_options(self) -> tuple[str, dict[str, Any]]:
        """The exported folder that this model or its base is loaded from, and what it says."""
        path: str | None = self.path
        while path and not path.startswith("embedrl:"):
            kind, options = read_options(path)
            if kind:
                return path, options
            path = adapter_base(path)
        return self.path, {}

    def _take(self, network: Any, tokenizer: Any) -> None:
        layout, brought = self.arrangement, adapter_tokens(self.path)
        new = [token for token in self._new_tokens if token not in brought]
        sources = source_ids(self.processor, (layout.disc_from, layout.gen_from)) if new else self.token_ids
        prepare_rows(network, len(tokenizer), self.token_ids, sources, new)
        for token in self._new_tokens:
            self.differences.grow(network, token)
        super()._take(network, tokenizer)

    # A family's class stands behind this one: `super()` is its.
    def preprocessor(self) -> UnifiedPreprocessor:  # type: ignore[override]
        """The preprocessor that fits this model; needs no weights."""
        layout = self.arrangement
        return UnifiedPreprocessor(super().preprocessor(), layout, self.token_ids)  # type: ignore[safe-super]

    def reading_options(self) -> dict[str, Any]:
        """See `Loadable.reading_options`; with the layout."""
        return super().reading_options() | {"layout": asdict(self.arrangement)}  # type: ignore[safe-super]

    # ---------------------------------------------------------------- vectors

    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch: every row at its `<gen_emb>`, at its `<disc_emb>` if it has no reasoning.

        A reasoning that was cut off is read at its last token.

        Returns:
            Unit vectors, float32, `[rows, dim]`.
        """
        at = torch.where(inputs["sources"][:, 1] < 0, inputs["sources"][:, 0], inputs["sources"][:, 1])
        return unit(self.hidden_states(inputs).flatten(0, 1)[at])

    def outputs(self, inputs: ModelInputs) -> Tensor:
        """Everything that training needs, from one forward pass.

        Args:
            inputs: What `preprocessor().for_training()` returned, moved to the model's device.

        Returns:
            For each row, float32: the unit vector at `<disc_emb>`, that at `<gen_emb>` (those that the layout has), and
            the summed negative log-likelihood of its reasoning, in nats: `[rows, vectors · dim + 1]`.

        Raises:
            DataError: If a row lacks a token of the layout.
        """
        layout, hidden = self.arrangement, self.hidden_states(inputs)
        used = [i for i, there in enumerate((layout.disc, layout.gen)) if there]
        sources = inputs["sources"][:, used]
        if bool((sources < 0).any()):
            raise DataError("a row has no <gen_emb>: train with embedrl.UnifiedDataModule, which puts one into each")
        flat = hidden.flatten(0, 1)
        vectors = [unit(flat[column]) for column in sources.unbind(1)]
        return torch.cat([*vectors, self._negative_log_likelihood(hidden, inputs["labels"])[:, None]], dim=1)

    def pack_replies(self, prompts: ModelInputs, replies: Sequence[SampledReply]) -> ModelInputs:
        """Append a reply to each prompt, for `reply_vectors`.

        Args:
            prompts: What `preprocessor().prompts(...)` returned, on the CPU.
            replies: A reply to each; one without `<gen_emb>` is read at its last token.
        """
        # The last token of a packed reply is predicted, but is no input.
        packed = self.pack(prompts, [[[*reply.tokens, 0]] for reply in replies])
        ends = torch.tensor([len(reply.tokens) for reply in replies])
        packed["sources"] = packed["sources"].gather(1, ends[:, None])
        del packed["labels"]
        return packed

    def reply_vectors(self, inputs: ModelInputs) -> Tensor:
        """Unit vectors behind replies, float32, `[rows, dim]`.

        Args:
            inputs: What `pack_replies` returned, moved to the model's device.
        """
        return unit(self.hidden_states(inputs).flatten(0, 1)[inputs["sources"][:, 0]])

    def _negative_log_likelihood(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Of the labelled tokens of each row, `[rows]`; the LM head runs on those tokens alone."""
        kept = labels[:, 1:] != IGNORE
        none = torch.empty(0, dtype=torch.long, device=labels.device)
        size = self.network.config.get_text_config().vocab_size
        logprobs, _ = token_logprobs(self.logits, hidden[:, :-1][kept], labels[:, 1:][kept], 1.0, none, size)
        rows = kept.nonzero()[:, 0]
        return logprobs.new_zeros(len(labels)).index_add(0, rows, -logprobs)

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Same as `encode`, so that wrappers with hooks on `forward` (FSDP, DDP) work."""
        return self.encode(inputs)

    # ---------------------------------------------------------------- writing

    @property
    def ends(self) -> list[int]:
        """The tokens that end a reply: `<gen_emb>` as well as the family's own."""
        own = super().ends
        return sorted({*own, self.token_ids[1]}) if self.arrangement.gen else own

    @cached_property
    def suppressed(self) -> list[int]:
        """Ids that are never written, those of vectors but `<gen_emb>` among them; see `PolicyGenerator.suppressed`."""
        barred = {self.emb_token_id, self.token_ids[0]} | (set() if self.arrangement.gen else {self.token_ids[1]})
        return sorted({*super().suppressed, *barred})

    def generate(
        self,
        inputs: ModelInputs,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """See `Generator.generate`; a reply ends by a token of `ends` alone, whatever `stop` says."""
        return super().generate(inputs, max_new_tokens, temperature, top_p)

    def sample(
        self, inputs: ModelInputs, n: int, seeds: Sequence[int], options: SamplingOptions
    ) -> list[list[SampledReply]]:
        """See `PolicyGenerator.sample`; the text of a reply that wrote `<gen_emb>` ends with it, `stop` is not used."""
        drawn = super().sample(inputs, n, seeds, replace(options, stop=()))  # type: ignore[safe-super]
        gen = self.token_ids[1]
        return [[replace(r, text=r.text + GEN_TOKEN) if gen in r.tokens[-1:] else r for r in row] for row in drawn]

    # ---------------------------------------------------------------- export

    def export(self, out: Path, merge: bool = True) -> None:
        """See `VisionLanguageModel.export`; config.json has the ids of both tokens, an adapter the rows of new ones."""
        super().export(out, merge)
        if not merge:
            new = [self.emb_token_id] * self.emb_new + list(self._new_tokens)
            network = self.network
            assert isinstance(network, PeftModel)
            if new:
                add_token_rows(out, network, sorted(new))


def unit(hidden: Tensor) -> Tensor:
    """Hidden states as unit vectors, in float32."""
    return functional.normalize(hidden.float(), dim=-1)


class QwenVLUnified(UnifiedModel, QwenVLReasoner):  # type: ignore[misc]  # the preprocessor's type
    """A Qwen3-VL that reasons and embeds.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter in peft's layout, a Hugging Face Hub name,
            `embedrl:world_base` or `embedrl:tiny`; see `QwenVLBackbone`.
        layout: What it reads and writes of a side; null: what an exported folder says, or the default.
        lora: LoRA options; null trains the weights themselves.
        train_vision: Whether the vision tower and its mergers are trained too; only without LoRA, whose scope decides.
        image_pixels: Budget of pictures and pages; null means the checkpoint's own.
        evidence_pixels: Budget of evidence crops and key frames; null means what an exported folder says, or else
            `image_pixels`.
        frame_pixels: Budget of one video frame; null means the checkpoint's own.
        max_length: Longest sequence in tokens, reasoning included; a longer one is an error.
        dtype: float32, bfloat16, or auto for the checkpoint's own.
        attn_implementation: sdpa, eager or flash_attention_2.
        gradient_checkpointing: Recompute each layer in the backward pass to save memory.
    """

    def __init__(
        self,
        path: str,
        layout: UnifiedLayout | None = None,
        lora: LoRAOptions | None = None,
        train_vision: bool = False,
        image_pixels: PixelBudget | None = None,
        evidence_pixels: PixelBudget | None = None,
        frame_pixels: PixelBudget | None = None,
        max_length: int = 8192,
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        QwenVLReasoner.__init__(
            self, path, lora, train_vision, image_pixels, evidence_pixels, frame_pixels, max_length, "right", dtype,
            attn_implementation, gradient_checkpointing,
        )  # fmt: skip
        self.layout = layout


class VLMUnified(UnifiedModel, VLMReasoner):  # type: ignore[misc]  # the preprocessor's type
    """A vision-language model of any family of transformers that reasons and embeds.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter in peft's layout, a Hugging Face Hub name, or
            `embedrl:tiny/FAMILY`; see `VLMBackbone`.
        layout: What it reads and writes of a side; null: what an exported folder says, or the default.
        family: What is different in the checkpoint's family; null: what this package knows about its model type.
        lora: LoRA options; null trains the weights themselves.
        train_vision: Whether the vision tower and the projector are trained too; only without LoRA.
        image_pixels: Budget of a picture, where the family's processor has one; null means the checkpoint's own.
        image_settings: Options of the family's image processor by its own names.
        video_settings: Options of its video processor.
        max_length: Longest sequence in tokens, reasoning included; a longer one is an error.
        dtype: float32, bfloat16, or auto for the checkpoint's own.
        attn_implementation: sdpa, eager or flash_attention_2.
        gradient_checkpointing: Recompute each layer in the backward pass to save memory.
    """

    def __init__(
        self,
        path: str,
        layout: UnifiedLayout | None = None,
        family: VLMFamily | None = None,
        lora: LoRAOptions | None = None,
        train_vision: bool = False,
        image_pixels: PixelBudget | None = None,
        image_settings: dict[str, Any] | None = None,
        video_settings: dict[str, Any] | None = None,
        max_length: int = 8192,
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        VLMReasoner.__init__(
            self, path, family, lora, train_vision, image_pixels, image_settings, video_settings, max_length, "right",
            dtype, attn_implementation, gradient_checkpointing,
        )  # fmt: skip
        self.layout = layout
