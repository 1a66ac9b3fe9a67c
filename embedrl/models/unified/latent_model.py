"""A unified model that reasons in latent steps, in the spirit of PLUME (arXiv 2604.02073)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.data.inputs import ModelInputs
from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.models.export_options import OPTIONS_FILE
from embedrl.models.lora import LoRAOptions
from embedrl.models.packing import IGNORE
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.unified.latent import STEPS, LatentPreprocessor, LatentRows, cached, cut_rows, grown
from embedrl.models.unified.layout import UnifiedLayout
from embedrl.models.unified.model import QwenVLUnified, UnifiedModel, unit


@dataclass
class LatentStates:
    """Hidden states of a micro-batch with latent steps.

    Attributes:
        rows: What was read.
        prompt: Before the latent steps, `[rows, P, dim]`.
        last: What the last of them said, `[rows, dim]`; of none, the prompt's last token.
        behind: Behind them, `[rows, R, dim]`.
    """

    rows: LatentRows
    prompt: Tensor
    last: Tensor
    behind: Tensor


class LatentModel(UnifiedModel):
    """A unified model that takes latent steps in place of words before its `<gen_emb>`.

    At a latent step the model reads, in place of the embedding of a token, its own last hidden state (after the final
    norm) at the position before. A side with a reasoning, whatever its words, is embedded behind `latent_steps` of
    them, one without at `<disc_emb>`. With 0 latent steps words stay: it is the unified model without this class.

    Attributes:
        steps: Its latent steps; None: what the folder says that it is loaded from, or `STEPS`.

    Source: PLUME (arXiv 2604.02073), whose routed transition between steps is left out: the hidden state goes back as
    it is.
    """

    steps: int | None
    _stored_steps: int | None = None

    @property
    def latent_steps(self) -> int:
        """The latent steps that hold: chosen, stored, or `STEPS`."""
        self.processor  # noqa: B018 - reads what the folder says
        chosen = self._stored_steps if self.steps is None else self.steps
        return STEPS if chosen is None else chosen

    def _read_layout(self) -> UnifiedLayout | None:
        path, options = self._stored_options()
        self._stored_steps = options.get("latent_steps")
        if self._stored_steps is not None and not isinstance(self._stored_steps, int):
            raise CheckpointError(f"{path}/{OPTIONS_FILE}: broken latent_steps: export the model again")
        layout = super()._read_layout()
        if not (self.layout or layout or UnifiedLayout()).gen:
            raise ConfigError("backbone.layout.gen is false: latent steps lead to <gen_emb>; set it to true")
        return layout

    def preprocessor(self) -> LatentPreprocessor:  # type: ignore[override]  # as `UnifiedModel`'s
        """See `UnifiedModel.preprocessor`."""
        base = super().preprocessor()
        return LatentPreprocessor(base.inner, base.layout, base.ids, reads_words=self.latent_steps == 0)

    def reading_options(self) -> dict[str, Any]:
        """See `UnifiedModel.reading_options`; with the latent steps."""
        return super().reading_options() | {"latent_steps": self.latent_steps}

    def encode(self, inputs: ModelInputs) -> Tensor:
        """See `UnifiedModel.encode`; a row with a reasoning is read behind the latent steps."""
        if not self.latent_steps or not bool((inputs["sources"][:, 1] >= 0).any()):
            return super().encode(inputs)
        states = self.latent_states(inputs, self.latent_steps)
        rows = states.rows
        disc, gen = (_rows_at(h, at) for h, at in ((states.prompt, rows.disc), (states.behind, rows.gen)))
        return unit(torch.where(rows.gen[:, None] >= 0, gen, disc))

    def outputs(self, inputs: ModelInputs, steps: int | None = None) -> Tensor:
        """See `UnifiedModel.outputs`; the likelihood is that of the words that are left, and of `<gen_emb>`.

        Args:
            inputs: What `preprocessor().for_training()` returned, moved to the model's device.
            steps: Latent steps that are taken in place of the beginning of the reasoning, at most `latent_steps`;
                None: all.
        """
        steps = self.latent_steps if steps is None else steps
        if not steps:
            return super().outputs(inputs)
        if bool((inputs["sources"][:, 1] < 0).any()):
            raise DataError("a row has no <gen_emb>: train with embedrl.UnifiedDataModule, which puts one into each")
        states = self.latent_states(inputs, steps)
        rows = states.rows
        vectors = [_rows_at(states.behind, rows.gen)]
        if self.arrangement.disc:
            vectors.insert(0, _rows_at(states.prompt, rows.disc))
        predicting = torch.cat([states.last[:, None], states.behind[:, :-1]], dim=1)
        return torch.cat([*map(unit, vectors), self._likelihood(predicting, rows.labels)[:, None]], dim=1)

    def latent_states(self, inputs: ModelInputs, steps: int) -> LatentStates:
        """Read the prompts, take latent steps, read what comes behind; keys and values are kept from one to the next.

        Gradients flow through all steps.

        Args:
            inputs: What the preprocessor returned, moved to the model's device.
            steps: Latent steps, 1 to `latent_steps`.
        """
        core, rows = self.core, cut_rows(inputs, steps, self.latent_steps)
        core.rope_deltas = None  # the offsets of another batch
        out = core(**self._tensors(rows.prompt), use_cache=True)
        prompt: Tensor = self._with_outside(out.last_hidden_state)
        last, mask, cache = prompt[:, -1], rows.prompt["attention_mask"], out.past_key_values
        for step in range(steps):
            mask, at = grown(mask, 1), rows.positions[..., step : step + 1]
            last = cached(core, mask, at, cache, inputs_embeds=last[:, None])[:, 0]
        at = rows.positions[..., steps:]
        behind = cached(core, grown(mask, rows.mask), at, cache, input_ids=rows.ids)
        return LatentStates(rows, prompt, last, behind)

    def _likelihood(self, predicting: Tensor, labels: Tensor) -> Tensor:
        """As `_negative_log_likelihood`, of hidden states that predict the labels at their own places."""
        ahead = functional.pad(labels, (1, 0), value=IGNORE)
        return self._negative_log_likelihood(functional.pad(predicting, (0, 0, 0, 1)), ahead)


class QwenVLLatent(LatentModel, QwenVLUnified):  # type: ignore[misc]  # the preprocessor's type
    """A Qwen3-VL that reasons in latent steps and embeds.

    Args:
        path: As of `QwenVLUnified`, like all others; a folder of a `QwenVLUnified` is a beginning, too.
        layout: What it reads and writes of a side; null: what an exported folder says, or the default.
        latent_steps: Latent steps before `<gen_emb>`; 0: words stay, as in a `QwenVLUnified`; null: what an exported
            folder says, or 4.
        lora: LoRA options; null trains the weights themselves.
        train_vision: Whether the vision tower and its mergers are trained too; only without LoRA, whose scope decides.
        image_pixels: Budget of pictures and pages; null means the checkpoint's own.
        evidence_pixels: Budget of evidence crops and key frames; null means what an exported folder says, or else
            `image_pixels`.
        frame_pixels: Budget of one video frame; null means the checkpoint's own.
        max_length: Longest sequence in tokens, reasoning included; a longer one is an error.
        dtype: float32, bfloat16, or auto for the checkpoint's own.
        attn_implementation: sdpa, eager or flash_attention_2.

    Raises:
        ConfigError: If the number of latent steps is below 0.
    """

    def __init__(
        self,
        path: str,
        layout: UnifiedLayout | None = None,
        latent_steps: int | None = None,
        lora: LoRAOptions | None = None,
        train_vision: bool = False,
        image_pixels: PixelBudget | None = None,
        evidence_pixels: PixelBudget | None = None,
        frame_pixels: PixelBudget | None = None,
        max_length: int = 8192,
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        attn_implementation: str = "sdpa",
    ) -> None:
        # Checkpointed layers keep no keys and values, without which a latent step cannot be taken.
        QwenVLUnified.__init__(
            self, path, layout, lora, train_vision, image_pixels, evidence_pixels, frame_pixels, max_length, dtype,
            attn_implementation, False,
        )  # fmt: skip
        if latent_steps is not None and latent_steps < 0:
            raise ConfigError(f"backbone.latent_steps is {latent_steps}: give 0 (words stay) or more")
        self.steps = latent_steps


def _rows_at(hidden: Tensor, places: Tensor) -> Tensor:
    """Hidden states `[rows, length, dim]` at places in their flattened rows; of -1 anything."""
    return hidden.flatten(0, 1)[places.clamp(min=0)]
