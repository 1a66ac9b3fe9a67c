"""Any Qwen3-VL checkpoint as an embedding backbone."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from embedrl.errors import ConfigError
from embedrl.models.adapters import adapter_base, adapter_tokens, add_token_row
from embedrl.models.attention_mask import block_mask
from embedrl.models.backbone import Backbone, ModelInputs
from embedrl.models.checkpoint_files import DTYPES, emb_token_id, prepare_emb_row
from embedrl.models.dropout import as_in_forward
from embedrl.models.export_options import write_options
from embedrl.models.lora import LoRAOptions, add_lora
from embedrl.models.pooling import pool_at_token
from embedrl.models.qwen_vl.export import BUDGETS, budget_options, load_budgets
from embedrl.models.qwen_vl.loading import empty_network, load_config, load_network, load_processor
from embedrl.models.qwen_vl.preprocess import PixelBudget, QwenVLPreprocessor, attention_balance
from embedrl.models.sentence_transformers_layout import write_layout
from embedrl.models.vision_cache import cache_vision_features
from embedrl.utils.public_names import public_path


class QwenVL(nn.Module):
    """The base of the Embedder's and the Reasoner's Qwen3-VL: loading, LoRA, freezing, inputs, export.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter in peft's layout (it counts as the base that it names
            with the adapter merged), a Hugging Face Hub name, `embedrl:world_base` (the base of the built-in world,
            which ships with the package) or `embedrl:tiny` (the same architecture with random weights).
        lora: LoRA options; null trains the weights themselves.
        train_vision: Whether the vision tower and its mergers are trained too; only without LoRA, whose scope decides.
        image_pixels: Budget of pictures and pages; null means the checkpoint's own.
        evidence_pixels: Budget of evidence crops and key frames; null means what an exported folder says (in its
            `embedrl_config.json`), or else `image_pixels`.
        frame_pixels: Budget of one video frame; null means the checkpoint's own.
        max_length: Longest sequence in tokens; a longer one is an error.
        padding_side: Where shorter rows are padded when embedding; the vectors do not depend on it.
        dtype: float32, bfloat16, or auto for the checkpoint's own.
        attn_implementation: sdpa, eager or flash_attention_2.
        gradient_checkpointing: Recompute each layer in the backward pass to save memory.
    """

    def __init__(
        self,
        path: str,
        lora: LoRAOptions | None = None,
        train_vision: bool = False,
        image_pixels: PixelBudget | None = None,
        evidence_pixels: PixelBudget | None = None,
        frame_pixels: PixelBudget | None = None,
        max_length: int = 8192,
        padding_side: Literal["left", "right"] = "right",
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if lora is not None and train_vision:
            raise ConfigError("train_vision with lora: use lora.scope=language+vision instead")
        self.path, self.lora, self.train_vision = path, lora, train_vision
        self.image_pixels, self.evidence_pixels, self.frame_pixels = image_pixels, evidence_pixels, frame_pixels
        self.max_length, self.padding_side = max_length, padding_side
        self.dtype, self.attn_implementation = dtype, attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.net: nn.Module | None = None
        self._processor: Any = None
        self._stored: dict[str, PixelBudget] = {}
        # `emb_new`: the base has no such token; `emb_added`: nor does an adapter bring its row.
        self.emb_token_id, self.emb_new, self.emb_added = -1, False, False

    @property
    def processor(self) -> Any:
        """The `Qwen3VLProcessor`, loaded at first use, whose tokenizer knows `<emb>`."""
        if self._processor is None:
            self._stored = load_budgets(self.path)
            processor = load_processor(self.path)
            self.emb_token_id, self.emb_new = emb_token_id(processor.tokenizer, load_config(self.path), self.path)
            self.emb_added = self.emb_new and self.emb_token_id not in adapter_tokens(self.path)
            self._set_budgets(processor)
            self._processor = processor
        return self._processor

    @property
    def network(self) -> Any:
        """The `Qwen3VLForConditionalGeneration`, inside its `PeftModel` if there is LoRA."""
        if self.net is None:
            raise RuntimeError(f"{type(self).__name__}.build() must be called before the model is used")
        return self.net

    @property
    def core(self) -> Any:
        """The `Qwen3VLModel`: everything but the LM head."""
        network = self.network
        return (network.get_base_model() if isinstance(network, PeftModel) else network).model

    def build(self) -> None:
        """Load the weights, add LoRA, freeze what is frozen. Does nothing when called again.

        Raises:
            CheckpointError: If the checkpoint is missing, is no Qwen3-VL, or its weights do not fit.
            ConfigError: If the LoRA scope matches nothing.
        """
        if self.net is not None:
            return
        tokenizer = self.processor.tokenizer
        network = load_network(self.path, DTYPES[self.dtype], self.attn_implementation)
        prepare_emb_row(network, tokenizer, self.emb_token_id, self.emb_added)
        self.adopt(network)

    def build_on_meta(self) -> None:
        """As `build`, without reading weights: every tensor is on the meta device. Does nothing when called again.

        Raises:
            CheckpointError: If the checkpoint's processor or configuration cannot be read.
            ConfigError: If the LoRA scope matches nothing.
        """
        if self.net is not None:
            return
        tokenizer = self.processor.tokenizer
        with torch.device("meta"):
            network = empty_network(self.path, DTYPES[self.dtype], self.attn_implementation)
            prepare_emb_row(network, tokenizer, self.emb_token_id, self.emb_added)
            self.adopt(network)

    def adopt(self, network: Any) -> None:
        """Take a `Qwen3VLForConditionalGeneration` as the network: add LoRA, freeze what is frozen.

        Raises:
            ConfigError: If the LoRA scope matches nothing.
        """
        if self.lora is not None:
            adapted = add_lora(network, self.lora)
            if adapter_base(self.path) or not network.name_or_path:
                # The base that an exported adapter names.
                adapted.peft_config["default"].base_model_name_or_path = self.path
            self.net = adapted
        else:
            network.requires_grad_(True)
            network.model.visual.requires_grad_(self.train_vision)
            self.net = network
        if self.gradient_checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": as_in_forward(network)})
            # Frozen embeddings would otherwise cut the graph before the first checkpointed layer.
            network.enable_input_require_grads()
        self.net.train()

    def preprocessor(self) -> QwenVLPreprocessor:
        """The preprocessor that fits this model; needs no weights."""
        images, evidence, frames = self._budgets(self.processor)
        balance = attention_balance(load_config(self.path).text_config)
        return QwenVLPreprocessor(self.processor, images, evidence, frames, self.max_length, self.padding_side, balance)

    @property
    def takes_blocks(self) -> bool:
        """Whether several texts in one row can be kept apart by a mask of blocks."""
        return self.attn_implementation in ("sdpa", "eager")

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """The last layer's hidden states after the final norm, `[batch, length, dim]`; the LM head does not run.

        Args:
            inputs: The network's inputs, or packed ones with `segments` (see `block_mask`) in place of a mask.

        Raises:
            ConfigError: If several texts share a row and the attention implementation takes no mask of blocks.
        """
        tensors = {name: value for name, value in inputs.items() if name not in ("labels", "sources", "segments")}
        if "segments" in inputs:
            if not self.takes_blocks:
                raise ConfigError(
                    f"attn_implementation={self.attn_implementation} cannot keep texts in one row apart: "
                    "use sdpa, or shared_prefix=false"
                )
            kind, dtype = inputs["segments"].device.type, self.network.get_input_embeddings().weight.dtype
            if torch.is_autocast_enabled(kind):
                dtype = torch.get_autocast_dtype(kind)
            tensors["attention_mask"] = block_mask(inputs["segments"], dtype)
        hidden: Tensor = self.core(**tensors, use_cache=False).last_hidden_state
        if isinstance(self, FSDPModule) and torch.is_grad_enabled() and not any("pixel" in name for name in tensors):
            hidden = hidden + self._idle_vision()
        return hidden

    def cache_vision_features(self, seen: list[Any]) -> AbstractContextManager[None]:
        """While open, a frozen vision tower reuses the features in `seen` of the same pictures."""
        return cache_vision_features(self.core.visual, seen)

    def _idle_vision(self) -> Tensor | float:
        """A zero that depends on the vision tower, if that is trained.

        FSDP2 reduces the gradients that a rank has: a rank with no picture in its micro-batch must have them too.
        """
        visual = self.core.visual
        if not any(parameter.requires_grad for parameter in visual.parameters()):
            return 0.0
        config, patches = visual.config, visual.config.spatial_merge_size
        pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
        grid = torch.tensor([[1, patches, patches]], device=self.network.device)
        seen = visual(torch.zeros(patches**2, pixels, device=self.network.device), grid_thw=grid)
        return sum(leaf.float().sum() * 0 for leaf in tree_leaves(seen) if isinstance(leaf, Tensor))

    def shard_units(self) -> list[nn.Module]:
        """The text layers; the vision tower stays with the root, as a rank may have no picture to run it on."""
        return list(self.core.language_model.layers)

    def export(self, out: Path, merge: bool = True) -> None:
        """Write a plain Hugging Face checkpoint with processor, `config.emb_token_ids` and `embedrl_config.json`.

        Args:
            out: The folder to write.
            merge: True folds LoRA into the weights; False writes peft's adapter alone (and the processor).

        Raises:
            ConfigError: If the adapter alone is asked for and there is none.
        """
        network = self.network
        if isinstance(network, PeftModel) and merge:
            network = copy.deepcopy(network).merge_and_unload()
        elif not isinstance(network, PeftModel) and not merge:
            raise ConfigError("merge=False writes the LoRA adapter alone, but this model has none: use merge=True")
        network.save_pretrained(out)
        self.processor.save_pretrained(out)
        write_options(out, public_path(type(self)), self.reading_options())

    def reading_options(self) -> dict[str, Any]:
        """The pixel budgets that were chosen; null for those that follow from the processor."""
        return budget_options(self._chosen())

    def _chosen(self) -> dict[str, PixelBudget]:
        """The budgets that were chosen, by this model's options or by the folder that it was loaded from."""
        options = {name: getattr(self, name) for name in BUDGETS}
        return self._stored | {name: budget for name, budget in options.items() if budget is not None}

    def _budgets(self, processor: Any) -> tuple[PixelBudget, PixelBudget, PixelBudget]:
        chosen, size, video = self._chosen(), processor.image_processor.size, processor.video_processor
        factor = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
        images = chosen.get("image_pixels") or PixelBudget(size["shortest_edge"], size["longest_edge"])
        # The video processor counts pixels over all frames, except for its cap, which is in tokens a frame.
        cap = factor * getattr(video, "max_video_tokens", 768)
        frames = chosen.get("frame_pixels") or PixelBudget(min(video.size["shortest_edge"], cap), cap)
        return images, chosen.get("evidence_pixels") or images, frames

    def _set_budgets(self, processor: Any) -> None:
        """Write the chosen budgets into the processor, as far as it has a place for them.

        It has none for evidence, nor for the least pixels of a frame: `embedrl_config.json` of an export has all.
        """
        images, _, frames = self._budgets(processor)
        processor.image_processor.size = {"shortest_edge": images.min_pixels, "longest_edge": images.max_pixels}
        if "frame_pixels" in self._chosen():
            factor = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
            processor.video_processor.max_video_tokens = frames.max_pixels // factor
            processor.video_processor.cap_pixels_per_frame = True


class QwenVLBackbone(QwenVL, Backbone):
    """A Qwen3-VL that embeds: the hidden state at `<emb>`, L2-normalised. Source: Embed-RL §3.1, Eq. 1-2."""

    def adopt(self, network: Any) -> None:
        """See `QwenVL.adopt`; the LM head is never run, so it is frozen."""
        super().adopt(network)
        head, embedding = self.network.get_output_embeddings(), self.network.get_input_embeddings()
        if head.weight is not embedding.weight:
            head.requires_grad_(False)

    @property
    def shares_prefix(self) -> bool:
        """See `Backbone.shares_prefix`; flash attention takes no mask of blocks."""
        return self.takes_blocks

    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch.

        Returns:
            Unit vectors, float32, one per chat: `[chats, dim]`.

        Raises:
            ConfigError: If several chats share a row and the attention implementation takes no mask of blocks.
            DataError: If a row holds no `<emb>`.
        """
        hidden = self.hidden_states(inputs)
        if "sources" in inputs:
            vectors = hidden.flatten(0, 1)[inputs["sources"]]
        else:
            vectors = pool_at_token(hidden, inputs["input_ids"], self.emb_token_id)
        return functional.normalize(vectors.float(), dim=-1)

    def export(self, out: Path, merge: bool = True) -> None:
        """See `QwenVL.export`; merged weights come with the files that let sentence-transformers load the folder.

        An adapter comes with the row of `<emb>` if its base has none.
        """
        super().export(out, merge)
        if not merge and self.emb_new:  # a Reasoner, which servers load, never reads `<emb>`
            add_token_row(out, self.network, self.emb_token_id)
        if merge:
            write_layout(out, self.core.config.text_config.hidden_size, self.processor.tokenizer)
