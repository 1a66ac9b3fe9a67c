"""What every family's vision-language models do alike: loading, LoRA, freezing, export, embedding at `<emb>`."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers import AutoModel

from embedrl.distributed.loadable import Loadable
from embedrl.errors import ConfigError
from embedrl.models.adapters import adapter_tokens, add_token_rows
from embedrl.models.backbone import Backbone, ModelInputs
from embedrl.models.checkpoint_files import DTYPES, emb_token_id, prepare_emb_row
from embedrl.models.dropout import checkpoint_layers
from embedrl.models.expert_files import check_experts, save_network
from embedrl.models.experts import name_text_layers, routed_layers, routing_of
from embedrl.models.export_options import write_options
from embedrl.models.input_gradients import need_input_gradients
from embedrl.models.lora import LoRAOptions, add_lora_on
from embedrl.models.networks import NetworkReader
from embedrl.models.pooling import last_places
from embedrl.models.routing import Routing
from embedrl.models.sentence_transformers_layout import write_layout
from embedrl.models.vision_cache import cache_vision_features
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.parts import linear_layers
from embedrl.utils.public_names import public_path


class VisionLanguageModel(Loadable):
    """The base of the Embedders and Reasoners of all families: loading, LoRA, freezing, export.

    Attributes:
        networks: How its checkpoints become networks.
    """

    networks: ClassVar[NetworkReader]

    def __init__(
        self,
        path: str,
        lora: LoRAOptions | None,
        train_vision: bool,
        max_length: int,
        padding_side: Literal["left", "right"],
        dtype: Literal["float32", "bfloat16", "auto"],
        attn_implementation: str,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        if lora is not None and train_vision:
            raise ConfigError("train_vision with lora: use lora.scope=language+vision+projector instead")
        self.path, self.lora, self.train_vision = path, lora, train_vision
        self.max_length, self.padding_side = max_length, padding_side
        self.dtype, self.attn_implementation = dtype, attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.net: nn.Module | None = None
        self._routing: Routing | None = None
        self._processor: Any = None
        # `emb_new`: the base has no such token; `emb_added`: nor does an adapter bring its row.
        self.emb_token_id, self.emb_new, self.emb_added = -1, False, False

    @property
    @abstractmethod
    def differences(self) -> VLMFamily:
        """What is different in the family."""

    @abstractmethod
    def read_processor(self) -> Any:
        """Load the checkpoint's processor and write the chosen options into it."""

    @abstractmethod
    def reading_options(self) -> dict[str, Any]:
        """What an exported folder must say of how pictures are read: plain values."""

    @abstractmethod
    def preprocessor(self) -> Any:
        """The preprocessor that fits this model; needs no weights."""

    @property
    def processor(self) -> Any:
        """The family's processor, loaded at first use, whose tokenizer knows `<emb>`."""
        if self._processor is None:
            processor, config = self.read_processor(), self.networks.config(self.path)
            self.emb_token_id, self.emb_new = emb_token_id(processor.tokenizer, config, self.path)
            self.emb_added = self.emb_new and self.emb_token_id not in adapter_tokens(self.path)
            self._processor = processor
        return self._processor

    @property
    def network(self) -> Any:
        """The model with its LM head, inside its `PeftModel` if there is LoRA."""
        if self.net is None:
            raise RuntimeError(f"{type(self).__name__}.build() must be called before the model is used")
        return self.net

    @property
    def core(self) -> Any:
        """Everything but the LM head."""
        network = self.network
        return (network.get_base_model() if isinstance(network, PeftModel) else network).base_model

    def build(self) -> None:
        """Load the weights, add LoRA, freeze what is frozen. Does nothing when called again.

        Raises:
            CheckpointError: If the checkpoint is missing, is of no known family, or its weights do not fit.
            ConfigError: If the LoRA scope matches nothing, or the family lacks something that was asked for.
        """
        if self.net is None:
            tokenizer = self.processor.tokenizer
            self._take(self.networks.load(self.path, DTYPES[self.dtype], self.attn_implementation), tokenizer)

    def build_on_meta(self) -> None:
        """As `build`, without reading weights: every tensor is on the meta device. Does nothing when called again.

        Raises:
            CheckpointError: If the checkpoint's processor or configuration cannot be read.
            ConfigError: As `build`.
        """
        if self.net is None:
            tokenizer = self.processor.tokenizer
            with torch.device("meta"):
                self._take(self.networks.empty(self.path, DTYPES[self.dtype], self.attn_implementation), tokenizer)

    def _take(self, network: Any, tokenizer: Any) -> None:
        prepare_emb_row(network, tokenizer, self.emb_token_id, self.emb_added)
        if self.emb_new:  # an adapter brings rows of the embedding and the head alone
            self.differences.grow(network, self.emb_token_id)
        self.adopt(network)

    def adopt(self, network: Any) -> None:
        """Take a model as the network: add LoRA, freeze what is frozen.

        Raises:
            ConfigError: If the LoRA scope matches nothing, or the family lacks something that was asked for.
        """
        core = network.base_model
        if core is network and self.networks.cls is not AutoModel:
            raise ConfigError(f"{self.path}: a {type(network).__name__} has no part without its LM head to embed with")
        loaded = bool(routed_layers(network))
        if self.lora is not None:
            check_experts(self, self.lora, loaded)
            self.net = add_lora_on(self.path, network, self.lora, self._adapted(network, self.lora))
            name_text_layers(network, core.get_decoder())
            self._routing = routing_of(network)
        elif loaded:
            network.requires_grad_(False)
            self.net = network
        else:
            network.requires_grad_(True)
            for module in self._outside_decoder(core):
                module.requires_grad_(self.train_vision)
            self.net = network
        if self.gradient_checkpointing:
            checkpoint_layers(network)
            # Frozen embeddings would otherwise cut the graph before the first checkpointed layer.
            need_input_gradients(network)
        self.net.train()

    def _adapted(self, network: Any, lora: LoRAOptions) -> list[str] | None:
        """The names of the layers that LoRA adapts; None: those that `embedrl.models.lora.SCOPES` describes."""
        core = network.base_model
        prefix = next(name for name, module in network.named_modules() if module is core)
        return [f"{prefix}.{name}".lstrip(".") for name in linear_layers(core, self.differences, lora)]

    @property
    def routing(self) -> Routing | None:
        """See `Backbone.routing`."""
        return self._routing

    @property
    def merges(self) -> bool:
        """See `Loadable.merges`."""
        return self.net is None or not routed_layers(self.net)

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """The last layer's hidden states after the final norm, `[batch, length, dim]`; the LM head does not run."""
        core = self.core
        if getattr(core, "rope_deltas", None) is not None:
            core.rope_deltas = None  # the offsets of another batch
        if self._routing is not None:
            kept = inputs["segments"] > 0 if "segments" in inputs else inputs["attention_mask"]
            self._routing.begin(kept, self._pooled(inputs))
        return self._with_outside(core(**self._tensors(inputs), use_cache=False).last_hidden_state)

    def _with_outside(self, hidden: Tensor) -> Tensor:
        """Hidden states in whose graph the trained vision tower takes part, where that matters."""
        core = self.core
        if isinstance(self, FSDPModule) and torch.is_grad_enabled():
            # FSDP2 reduces the gradients that a rank has: a rank without pictures must have the tower's too.
            trained = [p for m in self._outside_decoder(core) for p in m.parameters() if p.requires_grad]
            hidden = hidden + 0 * sum(p.float().sum() for p in trained)
        return hidden

    def hidden_at(self, inputs: ModelInputs, tokens: Tensor) -> Tensor:
        """The hidden states of tokens, given by their places in the flattened batch: `[tokens, dim]`."""
        return self.hidden_states(inputs).flatten(0, 1)[tokens]

    def _pooled(self, inputs: ModelInputs) -> Tensor:
        """Where each chat's `<emb>` lies in the flattened rows, `[chats]`."""
        return inputs["sources"] if "sources" in inputs else last_places(inputs["input_ids"], self.emb_token_id)

    @abstractmethod
    def _tensors(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """What the network takes of the inputs."""

    def cache_vision_features(self, seen: list[Any]) -> AbstractContextManager[None]:
        """While open, a frozen vision tower reuses the features in `seen` of the same pictures."""
        tower = self.differences.vision_tower(self.core)
        return nullcontext() if tower is None else cache_vision_features(tower, seen)

    def _outside_decoder(self, core: Any) -> list[nn.Module]:
        """The vision tower, the projector, and the like."""
        decoder = core.get_decoder()
        inside = {id(module) for module in decoder.modules()}
        return [module for module in core.children() if id(module) not in inside]

    def shard_units(self) -> list[nn.Module]:
        """The text layers; the vision tower stays with the root, as a rank may have no picture to run it on."""
        return list(getattr(self.core.get_decoder(), "layers", []))

    def export(self, out: Path, merge: bool = True) -> None:
        """Write a plain Hugging Face checkpoint with processor, `config.emb_token_ids` and `embedrl_config.json`.

        Args:
            out: The folder to write.
            merge: True folds LoRA into the weights; False writes peft's adapter alone (and the processor).

        Raises:
            ConfigError: If the adapter alone is asked for and there is none, or the adapter cannot be merged.
        """
        save_network(out, self.network, merge, self.lora)
        self.processor.save_pretrained(out)
        write_options(out, public_path(type(self)), self.reading_options())


class EmbedsAtToken(VisionLanguageModel, Backbone):
    """A vision-language model that embeds: the hidden state at `<emb>`, L2-normalised.

    Source: Embed-RL §3.1, Eq. 1-2.
    """

    def adopt(self, network: Any) -> None:
        """See `VisionLanguageModel.adopt`; the LM head is never run, so it is frozen."""
        super().adopt(network)
        head, embedding = self.network.get_output_embeddings(), self.network.get_input_embeddings()
        if head.weight is not embedding.weight:
            head.requires_grad_(False)

    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch.

        Returns:
            Unit vectors, float32, one per chat: `[chats, dim]`.

        Raises:
            ConfigError: If several chats share a row and the attention implementation takes no mask of blocks.
            DataError: If a row holds no `<emb>`.
        """
        return functional.normalize(self.hidden_at(inputs, self._pooled(inputs)).float(), dim=-1)

    def export(self, out: Path, merge: bool = True) -> None:
        """See `VisionLanguageModel.export`; merged weights come with sentence-transformers' files where it can.

        An adapter comes with the row of `<emb>` if its base has none.
        """
        super().export(out, merge)
        if not merge and self.emb_new:  # a Reasoner, which servers load, never reads `<emb>`
            add_token_rows(out, self.network, [self.emb_token_id])
        if merge and self.differences.ends_at_emb:
            tokenizer, video = self.processor.tokenizer, self.differences.reads_video
            write_layout(out, self.core.config.text_config.hidden_size, tokenizer, video)
