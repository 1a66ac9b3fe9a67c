"""Whether two losses of one model pull its weights apart: the cosine of their gradients, layer by layer.

For layer l with the trained weights θ_l, L_emb the weighted sum of the contrastive losses and L_gen that of the
cross-entropies on the reasoning:

    c_l = ⟨∂L_emb/∂θ_l, ∂L_gen/∂θ_l⟩ / (‖∂L_emb/∂θ_l‖ ‖∂L_gen/∂θ_l‖)

Below 0 the losses conflict: a step along one gradient raises the other loss. Source: Embed-RL (arXiv 2602.13823), whose
argument for two models is that these gradients conflict; the measure is that of Yu et al. (arXiv 2001.06782).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from embedrl.distributed.collectives import mean_over_ranks
from embedrl.distributed.gradient_sync import GradientSync
from embedrl.errors import ConfigError
from embedrl.losses.unified import LossRow, VectorLoss
from embedrl.models.vlm.base import VisionLanguageModel
from embedrl.training.gradient_cache import GradientCache


def layers_of(model: VisionLanguageModel) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of a model by layer, each once.

    Args:
        model: The model, built.

    Returns:
        `embedding` (tied to the LM head or not), `vision` (the tower and the projector), `layer_0` and so on (the
        decoder's, with as many digits as the last one has), `norm` (what else the decoder has) and `head`; those with
        trained parameters.
    """
    decoder, core = model.core.get_decoder(), model.core
    blocks = list(getattr(decoder, "layers", []))
    digits = len(str(max(0, len(blocks) - 1)))
    inside = {id(module) for module in decoder.modules()}
    parts: list[tuple[str, list[nn.Module]]] = [
        ("embedding", [model.network.get_input_embeddings()]),
        ("vision", [module for module in core.children() if id(module) not in inside]),
        *((f"layer_{i:0{digits}}", [block]) for i, block in enumerate(blocks)),
        ("norm", [decoder]),
        ("head", [model.network]),
    ]
    seen: set[int] = set()
    groups: dict[str, list[nn.Parameter]] = {}
    for name, modules in parts:
        own = [p for module in modules for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in own}
        if own:
            groups[name] = own
    return groups


def check_conflict(every: int, losses: Sequence[LossRow], log_every: int) -> None:
    """Check that there are two gradients to compare, and that what is measured is logged.

    Args:
        every: `model.gradient_conflict_every`; 0: never.
        losses: The parts of the loss.
        log_every: `trainer.log_every_n_steps`.

    Raises:
        ConfigError: If one of both is missing, or a measured step is one that the trainer does not log.
    """
    if not every:
        return
    kinds = {isinstance(row.loss, VectorLoss) for row in losses}
    if len(kinds) < 2:
        missing = "cross-entropy (embedrl.losses.ReasoningLoss)" if True in kinds else "embedrl.losses.VectorLoss"
        raise ConfigError(
            f"model.gradient_conflict_every is {every}, but model.losses has no {missing} to compare with: add one, or "
            "set it to 0"
        )
    if log_every and every % log_every:
        raise ConfigError(
            f"model.gradient_conflict_every is {every}, but figures are logged every {log_every} steps "
            "(trainer.log_every_n_steps): give a multiple of it"
        )


def gradient_conflict(
    cache: GradientCache, gradient: Tensor, groups: Mapping[str, Sequence[nn.Parameter]], sync: GradientSync
) -> dict[str, Tensor]:
    """Cosines between the gradients of the contrastive losses and of the cross-entropies, by layer.

    The loss is a sum, and its outputs are apart: vectors, then the likelihood. So each part's gradient is the second
    pass of the gradient cache with the other part's columns set to 0. The gradients that the parameters hold, and the
    random state, stay as they are. All ranks call together, after the step's own backward pass.

    Args:
        cache: The step's gradient cache, after its own backward pass.
        gradient: The loss's gradient with respect to the outputs, `[rows, vectors · dim + 2]`; the last two columns
            are the summed negative log-likelihood and its tokens.
        groups: The parameters by layer.
        sync: Exchanges gradients between ranks.

    Returns:
        The cosine of each layer, by name; `mean`, their mean; and `all`, that of the whole gradients. A layer that one
        of both losses does not reach has none.
    """
    parameters = [p for group in groups.values() for p in group]
    held = [p.grad for p in parameters]
    sides: list[list[Tensor | None]] = []
    for kept in (slice(None, -2), slice(-2, None)):
        part = torch.zeros_like(gradient)
        part[:, kept] = gradient[:, kept]
        for p in parameters:
            p.grad = None
        sync.hold()
        cache.backward(part, sync.release)
        sides.append([p.grad for p in parameters])
    for p, grad in zip(parameters, held, strict=True):
        p.grad = grad
    names = [name for name, group in groups.items() for _ in group]
    return cosines(names, *sides)


def cosines(names: Sequence[str], first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Cosines of two gradients, by layer; of sharded ones over all ranks.

    Args:
        names: The layer of each parameter.
        first: One gradient of each parameter; None: zero.
        second: The other one.

    Returns:
        See `gradient_conflict`.

    >>> one, other = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])], [torch.tensor([4.0, 3.0]), torch.tensor([-2.0])]
    >>> {name: round(float(value), 4) for name, value in cosines(["a", "b"], one, other).items()}
    {'a': 0.96, 'b': -1.0, 'mean': -0.02, 'all': 0.8012}
    """
    layers = list(dict.fromkeys(names))
    device = next((g.device for g in (*first, *second) if g is not None), torch.device("cpu"))
    sums = torch.zeros(len(layers), 3, dtype=torch.float64, device=device)
    for name, one, other in zip(names, first, second, strict=True):
        flat = [None if g is None else _local(g).flatten().double() for g in (one, other)]
        row = sums[layers.index(name)]
        for at, (a, b) in enumerate(((0, 1), (0, 0), (1, 1))):
            left, right = flat[a], flat[b]
            if left is not None and right is not None:
                row[at] += left @ right
    sums = mean_over_ranks(sums)  # a common factor, which a cosine does not know
    reached = (sums[:, 1] > 0) & (sums[:, 2] > 0)
    if not bool(reached.any()):
        return {}
    each = (sums[:, 0] / (sums[:, 1] * sums[:, 2]).sqrt()).float()
    figures = {name: each[i] for i, name in enumerate(layers) if bool(reached[i])}
    whole = sums.sum(0)
    return figures | {"mean": each[reached].mean(), "all": (whole[0] / (whole[1] * whole[2]).sqrt()).float()}


def _local(gradient: Tensor) -> Tensor:
    """This rank's part of a gradient."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
