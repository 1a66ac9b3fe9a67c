"""Late fusion: from the vectors of texts and pictures to one vector a side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedrl.data.inputs import ModelInputs
from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.export_options import OPTIONS_FILE, read_options


@dataclass(frozen=True)
class FusionWeights:
    """How much each kind of input counts in the vector of a side that has several.

    The vector of a side is `normalize(Σ w_g · m_g)` over the kinds `g` that it has, where `m_g` is the mean of the unit
    vectors of that kind's inputs. A side with a single kind has the direction of its mean, whatever the weight.

    Attributes:
        text: All texts of the side, joined into one.
        image: Its pictures.
        evidence: Crops and key frames that its T-CoT points at; 0 ignores them.
        video: Its frames.
    """

    text: float = 1.0
    image: float = 1.0
    evidence: float = 1.0
    video: float = 1.0

    def __post_init__(self) -> None:
        if min(self.text, self.image, self.video) <= 0 or self.evidence < 0:
            raise ConfigError(f"backbone.fusion {self}: weights must be positive (evidence may be 0)")


def fuse(
    inputs: ModelInputs,
    texts: Tensor | None,
    pictures: Tensor | None,
    weights: FusionWeights,
    parameters: Iterable[nn.Parameter],
) -> Tensor:
    """One vector for each row of a micro-batch: see `FusionWeights`.

    Args:
        inputs: See `PackedPreprocessor`.
        texts: What the text tower makes of the texts, `[texts, dim]`; None if there is none.
        pictures: What the image tower makes of the pictures, `[pictures, dim]`; None if there is none.
        weights: The weights.
        parameters: Those of both towers. A tower without inputs still takes part in the backward pass, as sharding
            expects of every rank.

    Returns:
        Unit vectors, float32, `[batch, dim]`.
    """
    batch = len(inputs["rows"])
    units = [functional.normalize(v.float(), dim=-1) if v is not None else None for v in (texts, pictures)]
    dim = next(v.shape[1] for v in units if v is not None)
    fused = torch.zeros(batch, dim, device=inputs["rows"].device)
    if units[0] is not None:
        fused = fused.index_add(0, inputs["text_row"], weights.text * units[0])
    if units[1] is not None:
        kinds = fused.new_tensor([weights.image, weights.evidence, weights.video])
        place = inputs["pixel_row"] * len(kinds) + inputs["pixel_group"]
        sums = fused.new_zeros(batch * len(kinds), dim).index_add(0, place, units[1])
        means = sums / torch.bincount(place, minlength=len(sums)).clamp(min=1)[:, None]
        fused = fused + (means.view(batch, len(kinds), dim) * kinds[:, None]).sum(1)
    if units[0] is None or units[1] is None:
        fused = fused + 0 * sum(p.sum() for p in parameters if p.requires_grad)
    return functional.normalize(fused, dim=-1)


def stored_fusion(place: str) -> FusionWeights:
    """The fusion that an export was trained with; the default for any other model.

    Args:
        place: A folder, or a Hub name.

    Raises:
        CheckpointError: If the folder's `embedrl_config.json` is broken.
    """
    stored = read_options(place)[1].get("fusion") or {}
    try:
        return FusionWeights(**stored)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{place}/{OPTIONS_FILE}: broken fusion ({error}): export it again") from error


def settle(network: nn.Module | None) -> None:
    """Put frozen modules, and batch normalisation in any case, into evaluation mode.

    A vector then does not depend on the batch that it is computed in, which gradient caching relies on.
    """
    for module in () if network is None else network.modules():
        parameters = list(module.parameters())
        frozen = parameters and not any(p.requires_grad for p in parameters)
        if frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
