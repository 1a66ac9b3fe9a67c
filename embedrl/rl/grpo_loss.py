"""The GRPO loss, on log-probabilities: no model inside. Source: Embed-RL §3.3, Eq. 6."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from embedrl.errors import ConfigError

Aggregation = Literal["sequence_mean", "token_mean"]
Ratio = Literal["token", "sequence"]


class GRPOLoss:
    """Clipped policy gradient with a KL penalty to the reference.

        r = exp(logprob - old), kl = exp(ref - logprob) - (ref - logprob) - 1  (k3: never negative, low variance)
        loss of a token = -w · min(r · A, clip(r, 1 - clip_low, 1 + clip_high) · A) + kl_coefficient · kl

    Equal to TRL's GRPOTrainer: `loss_type="grpo"` is the sequence mean, `"bnpo"` the token mean, and `"dapo"` the token
    mean with `count` = tokens of the whole step. TRL needs `use_bias_correction_kl=False` for it: by default it weights
    the KL penalty by the ratio, which Eq. 6 does not.

    Args:
        clip_low: How far below 1 the ratio may fall before a bad token is left alone.
        clip_high: How far above 1 the ratio may rise before a good token is left alone.
        kl_coefficient: Weight of the KL penalty; 0 needs no reference.
        aggregation: Mean over tokens of each rollout, then over rollouts (`sequence_mean`); or over all tokens, so that
            long rollouts weigh more (`token_mean`).
        importance_cap: w = min(exp(old - behaviour), cap) corrects for rollouts drawn by another engine than the one
            that computes `old`, or by `top_p` below 1, where w is the probability of the tokens that it keeps (`top_p`
            or more); None leaves w = 1. Use 2 with rollouts of a server. Source: Yao et al. 2025, "Your Efficient RL
            Framework Secretly Brings You Off-Policy RL Training" (truncated importance sampling).
        ratio: `sequence` takes one r for all tokens of a rollout, exp of the mean of their logprob - old, which is
            clipped as a whole; ratios are then far closer to 1, and so should the bounds be (3e-4 and 4e-4 in the
            source). Source: Zheng et al. 2025, "GSPO" (2507.18071); TRL's `importance_sampling_level="sequence"`.

    Raises:
        ConfigError: If an option is out of its range.
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        kl_coefficient: float = 0.01,
        aggregation: Aggregation = "sequence_mean",
        importance_cap: float | None = None,
        ratio: Ratio = "token",
    ) -> None:
        if not 0 < clip_low <= 1:
            raise ConfigError(f"loss.clip_low is {clip_low}: give a number above 0 and up to 1, such as 0.2")
        if not clip_high > 0:
            raise ConfigError(f"loss.clip_high is {clip_high}: give a number above 0, such as 0.2")
        if not kl_coefficient >= 0:
            raise ConfigError(f"loss.kl_coefficient is {kl_coefficient}: give a number from 0 on, such as 0.01")
        if aggregation not in ("sequence_mean", "token_mean"):
            raise ConfigError(f"loss.aggregation is {aggregation!r}: give sequence_mean or token_mean")
        if importance_cap is not None and not importance_cap > 0:
            raise ConfigError(f"loss.importance_cap is {importance_cap}: give a number above 0, such as 2, or null")
        if ratio not in ("token", "sequence"):
            raise ConfigError(f"loss.ratio is {ratio!r}: give token or sequence")
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.kl_coefficient = kl_coefficient
        self.aggregation = aggregation
        self.importance_cap = importance_cap
        self.ratio = ratio

    def __call__(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        reference: Tensor | None = None,
        behaviour: Tensor | None = None,
        count: float | Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a micro-batch.

        Args:
            logprobs: Log-probability of each token under the policy that is trained, `[rollouts, tokens]`; at least one
                of each, if only a masked one.
            old_logprobs: The same under the policy as it was before the step; pass `logprobs.detach()` when it has not
                moved yet.
            advantages: One a rollout, `[rollouts]`, or one a token, `[rollouts, tokens]`.
            mask: True (or 1) at the tokens that the policy drew, `[rollouts, tokens]`; what stands elsewhere, NaN
                included, changes nothing.
            reference: The same as `logprobs` under the initial policy; needed unless `kl_coefficient` is 0.
            behaviour: The same as the rollout engine gave them (`Rollout.logprobs`); needed if `importance_cap` is set,
                else unused.
            count: Rollouts (`sequence_mean`) or tokens (`token_mean`) of the whole optimizer step: the losses of its
                micro-batches then add up to the loss of the step. None means those of this call.

        Returns:
            The loss (a scalar) and, over the tokens of this call, `ratio`, `ratio_max`, `clip_share`, `kl` (if there is
            a reference), and `importance` and `importance_capped`, the share above the cap (if there is one).
        """
        given = {"old_logprobs": old_logprobs, "mask": mask, "reference": reference, "behaviour": behaviour}
        for name, tensor in given.items():
            if tensor is not None and tensor.shape != logprobs.shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, logprobs {list(logprobs.shape)}")
        if advantages.shape not in (logprobs.shape[:1], logprobs.shape):
            raise ValueError(f"advantages have shape {list(advantages.shape)}, logprobs {list(logprobs.shape)}")
        if reference is None and self.kl_coefficient > 0:
            raise ValueError("kl_coefficient is above 0: the loss needs the reference's log-probabilities")
        if behaviour is None and self.importance_cap is not None:
            raise ValueError("importance_cap is set: the loss needs the behaviour's log-probabilities")

        dtype = torch.promote_types(logprobs.dtype, torch.float32)
        kept = mask.bool()

        def difference(a: Tensor, b: Tensor) -> Tensor:
            # Zero outside the mask before exp: padding may hold anything, and NaN · 0 is NaN.
            return (a.to(dtype) - b.to(dtype)).masked_fill(~kept, 0.0)

        with torch.autocast(logprobs.device.type, enabled=False):
            change = difference(logprobs, old_logprobs.detach())
            if self.ratio == "sequence":
                change = (change.sum(1) / kept.sum(1).clamp(min=1))[:, None].expand_as(change)
            ratio = change.exp()
            advantage = advantages.detach().to(dtype)
            advantage = advantage[:, None] if advantage.dim() == 1 else advantage
            clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
            losses = -torch.min(ratio * advantage, clipped * advantage)
            beyond = ((ratio < 1 - self.clip_low) & (advantage < 0)) | ((ratio > 1 + self.clip_high) & (advantage > 0))
            metrics = {"ratio": ratio.detach(), "clip_share": beyond.to(dtype)}
            if self.importance_cap is not None and behaviour is not None:
                drift = difference(old_logprobs.detach(), behaviour.detach()).exp()
                weight = drift.clamp(max=self.importance_cap)
                losses = losses * weight
                metrics |= {"importance": weight, "importance_capped": (drift > self.importance_cap).to(dtype)}
            if reference is not None:
                gap = difference(reference.detach(), logprobs)
                kl = gap.exp() - gap - 1
                metrics["kl"] = kl.detach()
                if self.kl_coefficient > 0:
                    losses = losses + self.kl_coefficient * kl
            loss = self._aggregate(losses, kept.to(dtype), count)
            tokens = kept.sum().clamp(min=1)
            means = {name: (values * kept).sum() / tokens for name, values in metrics.items()}
        return loss, means | {"ratio_max": ratio.detach().masked_fill(~kept, 0.0).amax()}

    def _aggregate(self, losses: Tensor, mask: Tensor, count: float | Tensor | None) -> Tensor:
        if self.aggregation == "token_mean":
            return (losses * mask).sum() / (mask.sum().clamp(min=1) if count is None else count)
        means = (losses * mask).sum(1) / mask.sum(1).clamp(min=1)
        return means.sum() / (len(means) if count is None else count)
