"""Operations of a Qwen3-VL: a multiplication and an addition are two, as `torch.utils.flop_counter` counts.

Counted are the matrix products of linear layers, of the patch embedding and of attention (every token with every other
of its row: kernels that skip the causal half do less). The rest is less than a hundredth.

Why not that counter itself, on a model without data (`FakeTensorMode`): Qwen3-VL reads the sizes of pictures out of a
tensor, so a row with a picture cannot be traced, and a row of text alone takes 5 s at the 2B's shape (forward equal,
backward within 0.3 %), where these formulas take 10 ms. The tests hold them against the counter on real models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from embedrl.models.qwen_vl.backbone import QwenVL
from embedrl.planning.rows import Mix, TokenRow


@dataclass(frozen=True)
class Part:
    """Layers that all see the same tokens.

    Attributes:
        weights: Weights of its linear layers, adapters included.
        trained: Those of them that are trained.
        again: Those that gradient checkpointing computes again: of each layer, all but the last, whose result is not
            needed.
        width: Width of attention (heads times their dimension), summed over the layers.
        carries: Whether gradients flow through it: something in it, or before it, is trained.
    """

    weights: int
    trained: int
    again: int
    width: int
    carries: bool

    def forward(self, tokens: float, blocks: Iterable[tuple[int, float]] = ()) -> float:
        """Operations of a forward pass.

        Args:
            tokens: Tokens that pass through.
            blocks: Blocks of tokens that attend to one another: (size, how many).
        """
        return 2 * self.weights * tokens + 4 * self.width * sum(size**2 * count for size, count in blocks)

    def backward(self, tokens: float, blocks: Iterable[tuple[int, float]] = ()) -> float:
        """Operations of a backward pass: gradients of what came in, and of the trained weights."""
        if not self.carries:
            return 0.0
        return 2 * self.forward(tokens, blocks) - 2 * (self.weights - self.trained) * tokens

    def recomputed(self, tokens: float, blocks: Iterable[tuple[int, float]] = ()) -> float:
        """Operations that gradient checkpointing adds."""
        return (self.forward(tokens, blocks) - 2 * (self.weights - self.again) * tokens) * self.carries


@dataclass(frozen=True)
class Flops:
    """The parts of a built Qwen3-VL, on whatever device.

    Attributes:
        vision: Patch embedding and blocks of the vision tower.
        merger: What turns patches into tokens.
        text: The language model's layers.
        head: The LM head.
        merge: Patches in a token.
    """

    vision: Part
    merger: Part
    text: Part
    head: Part
    merge: int

    @classmethod
    def of(cls, model: QwenVL) -> Flops:
        """Read the parts off a model."""
        core, config = model.core, model.core.config
        text, vision = config.text_config, config.vision_config
        blocks, layers = core.visual.blocks, core.language_model.layers
        towers = _part([core.visual.patch_embed, blocks], blocks, vision.depth * vision.hidden_size, False)
        merger = _part([core.visual.merger, core.visual.deepstack_merger_list], [], 0, towers.carries)
        width = text.num_hidden_layers * text.num_attention_heads * text.head_dim
        language = _part([layers, core.language_model.embed_tokens], layers, width, merger.carries)
        head = model.network.get_output_embeddings()
        return cls(towers, merger, language, _part([head], [], 0, language.carries), vision.spatial_merge_size**2)

    def forward(self, mix: Mix) -> float:
        """Operations of a forward pass over rows, without the LM head."""
        return sum(count * self._pass(row, "forward") for row, count in mix)

    def backward(self, mix: Mix) -> float:
        """Operations of a backward pass over rows, without the LM head."""
        return sum(count * self._pass(row, "backward") for row, count in mix)

    def again(self, mix: Mix) -> float:
        """Operations of computing the layers again that gradient checkpointing did not keep."""
        again = 0.0
        for row, count in mix:
            again += count * self.text.recomputed(row.length, [(row.length, 1)])
            again += count * self.vision.recomputed(sum(row.blocks), [(size, 1.0) for size in row.blocks])
        return again

    def written(self, prompt: int, reply: int) -> float:
        """Operations of writing a reply behind a prompt that was read, the LM head's included."""
        seen = prompt * reply + reply**2 / 2
        return self.text.forward(reply) + 4 * self.text.width * seen + self.head.forward(reply)

    def vision_tower(self, mix: Mix) -> float:
        """Operations of a frozen tower on rows, which a further pass saves ; 0 for a trained one."""
        return 0.0 if self.merger.carries else sum(count * self._vision_tower(row, "forward") for row, count in mix)

    def _pass(self, row: TokenRow, kind: str) -> float:
        return float(self._vision_tower(row, kind) + getattr(self.text, kind)(row.length, [(row.length, 1.0)]))

    def _vision_tower(self, row: TokenRow, kind: str) -> float:
        patches, blocks = sum(row.blocks), [(size, 1.0) for size in row.blocks]
        return float(getattr(self.vision, kind)(patches, blocks) + getattr(self.merger, kind)(patches / self.merge))


def _part(modules: list[Any], checkpointed: Iterable[nn.Module], width: int, carries: bool) -> Part:
    weights = [weight for top in modules for weight in _weights(top)]
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    again = sum(weight.numel() for layer in checkpointed for weight in _weights(layer)[:-1])
    carries = carries or any(p.requires_grad for top in modules for p in top.parameters())
    return Part(sum(weight.numel() for weight in weights), trained, again, width, carries)


def _weights(top: nn.Module) -> list[Tensor]:
    return [module.weight for module in top.modules() if isinstance(module, nn.Linear | nn.Conv3d)]
