"""How T-CoTs of an evaluation are searched for at test time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embedrl.errors import ConfigError
from embedrl.inference.step_model import StepModel
from embedrl.rl.rewards.judge import Judge

SearchMode = Literal["greedy", "best_of_n", "mcts"]


@dataclass(frozen=True)
class SearchOptions:
    """How T-CoTs are searched for at test time, without labels.

    Attributes:
        samples: `best_of_n`: T-CoTs that are drawn of a side (N).
        choose: `best_of_n`: which of them is kept. `medoid`: the one whose vector most of the others agree with.
            `delta_s`: the one whose vector is farthest before the next candidate. `judge`: the one from whose words a
            judge finds what its vector finds. The last two know the candidates: they choose for queries alone, and
            candidates keep their likeliest T-CoT. `step_model`: the one of the greatest value, for queries alone, too.
        judge: The judge of `judge`: `embedrl.rl.ReferenceJudge` with a `scorer`, `embedrl.rl.EndpointJudge`, your own.
        shown: `judge`: how many of the best candidates it reads.
        step_model: Says how likely a T-CoT is to find the target. `mcts`: what a T-CoT so far is worth, beside its Δs;
            None: Δs alone.
        temperature: Of draws; 0 takes the likeliest token.
        top_p: Draw among the likeliest tokens that hold this much probability.
        branches: `mcts`: continuations of a section; the first is the likeliest, the others are drawn.
        rounds: `mcts`: sections that are continued, a query.
        exploration: `mcts`: C of the UCB, in units of the value.
        seed: Seed of the draws.
    """

    samples: int = 8
    choose: Literal["medoid", "delta_s", "judge", "step_model"] = "medoid"
    judge: Judge | None = None
    shown: int = 4
    step_model: StepModel | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    branches: int = 4
    rounds: int = 6
    exploration: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range, a judge is missing or unused, or a step model is missing.
        """
        for flag, least in (("samples", 1), ("branches", 1), ("rounds", 1), ("shown", 2)):
            if getattr(self, flag) < least:
                raise ConfigError(f"--tcots.searching.{flag} is {getattr(self, flag)}: give {least} or more")
        for flag in ("temperature", "exploration", "seed"):
            if not 0 <= getattr(self, flag) < float("inf"):
                raise ConfigError(f"--tcots.searching.{flag} is {getattr(self, flag)}: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--tcots.searching.top_p is {self.top_p}: give more than 0, at most 1")
        if (self.choose == "judge") != (self.judge is not None):
            raise ConfigError("--tcots.searching.judge and --tcots.searching.choose judge: give both or neither")
        if self.choose == "step_model" and self.step_model is None:
            raise ConfigError("--tcots.searching.choose step_model: give --tcots.searching.step_model")
