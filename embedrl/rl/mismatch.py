"""How far the log-probabilities of a rollout engine are from the policy's, which are computed again for the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from embedrl.distributed.collectives import gather_objects
from embedrl.errors import EndpointError

if TYPE_CHECKING:
    from embedrl.rl.rollout import RemoteEngine


def unexplained(policy: Tensor, engine: Tensor, top_p: float) -> Tensor:
    """How much further an engine's log-probabilities are from the policy's than `top_p` explains, never negative.

    An engine gives those of the distribution that it drew from (`Rollout.logprobs`): the policy's divided by the
    probability of all tokens that `top_p` keeps, which is `top_p` or more. So they are right if engine - policy lies
    between 0 and -log(top_p).

    Args:
        policy: Log-probabilities under the policy, among all tokens.
        engine: The same tokens' as the engine gave them.
        top_p: The share of probability that tokens were drawn from.

    >>> import torch
    >>> unexplained(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.25, -0.75, 0.0]), top_p=0.5).tolist()
    [0.25, 0.0, 0.306...]
    """
    excess = engine - policy
    return (excess - excess.clamp(0.0, -math.log(top_p))).abs()


class Mismatch:
    """Collects by how much the log-probabilities of one step's tokens differ: see `unexplained`.

    Args:
        top_p: As they were drawn.
    """

    def __init__(self, top_p: float = 1.0) -> None:
        self._top_p = top_p
        self._total, self._tokens, self._largest = 0.0, 0.0, 0.0

    def add(self, policy: Tensor, engine: Tensor, mask: Tensor) -> None:
        """Count the tokens of a micro-batch, `[rollouts, tokens]` each.

        Args:
            policy: Log-probabilities under the policy as it was when it was rolled out.
            engine: The same as the engine gave them.
            mask: Where there is a token.
        """
        kept = mask.bool()
        gaps = unexplained(policy[kept].float(), engine[kept].float(), self._top_p)
        if gaps.numel():
            self._total += float(gaps.sum())
            self._tokens += gaps.numel()
            self._largest = max(self._largest, float(gaps.max()))

    def check(self, engine: RemoteEngine, step: int) -> dict[str, float]:
        """The figures over all ranks, which call together.

        Returns:
            `policy/mismatch`, the mean in nats, and `policy/mismatch_ratio_max`, the largest ratio of the two
            probabilities of a token, whichever is larger.

        Raises:
            EndpointError: If the mean is above the engine's limit.
        """
        reports = gather_objects([(self._total, self._tokens, self._largest)])
        mean = sum(total for total, _, _ in reports) / max(sum(tokens for _, tokens, _ in reports), 1.0)
        largest = math.exp(min(max(gap for _, _, gap in reports), 700.0))
        if engine.max_mismatch is not None and not mean <= engine.max_mismatch:
            raise EndpointError(
                f"step {step}: the server at {engine.base_url} does not draw by the policy: their log-probabilities "
                f"differ by {mean:.3g} nats a token (by a factor of {largest:.3g} at most), more than "
                f"engine.max_mismatch {engine.max_mismatch}. Does it load the adapter it is given, serve the base that "
                "generator.path names, in like precision, with --logprobs-mode processed_logprobs (and "
                "--enable-tower-connector-lora, if lora.scope goes beyond the language model)?"
            )
        return {"policy/mismatch": mean, "policy/mismatch_ratio_max": largest}
