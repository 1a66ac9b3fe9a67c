"""What of an EG-RL step is preparation: opening pictures, resizing and cutting them into patches, tokens, parsing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from statistics import median
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from timing import Seconds

from embedrl.data.datamodules import egrl
from embedrl.inference import frozen_embedder
from embedrl.models import grouping
from embedrl.models.qwen_vl.preprocess import QwenVLPreprocessor
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl import step

PREPARES: list[tuple[Any, str]] = [
    (egrl.PairBatch, "__post_init__"),
    (step, "reasoning_chat"),
    (step, "parse"),
    (frozen_embedder, "fitting_chat"),
    (QwenVLPreprocessor, "prompts"),
    (QwenVLPreprocessor, "prompt_rows"),
    (QwenVLPreprocessor, "join"),
    (QwenVLPreprocessor, "groups"),
    (QwenVLReasoner, "pack"),
    (grouping, "visual_inputs"),
]
"""All that prepares inputs in a step and in its loader; none of it touches a network."""


class Preparation(Callback):
    """Takes the CPU time that each training step and its loading spend on preparation. Stands behind `Beside`.

    Attributes:
        loader: Seconds before each step, in the loader.
        step: Seconds within each step.
    """

    def __init__(self) -> None:
        self.loader: list[float] = []
        self.step: list[float] = []
        self._spent, self._depth, self._rounds = 0.0, 0, 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While open, what prepares is timed."""
        before = [(owner, name, getattr(owner, name)) for owner, name in PREPARES]
        for owner, name, function in before:
            setattr(owner, name, self._timed(function))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def uncounted(self, call: Callable[[], None]) -> Callable[[], None]:
        """The call without what it prepares being counted."""

        def run() -> None:
            spent = self._spent
            call()
            self._spent = spent

        return run

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:  # else the caller's time holds it
                    self._spent += time.process_time() - start

        return timed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End of loading."""
        self.loader.append(self._lap())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End of a step; the first one is for warming up."""
        self.step.append(self._lap())
        self._rounds += 1
        if self._rounds == 1:
            self.loader.clear()
            self.step.clear()

    def _lap(self) -> float:
        spent, self._spent = self._spent, 0.0
        return spent

    def seconds(self) -> float:
        """Median CPU seconds a step, loading included."""
        return median(a + b for a, b in zip(self.loader, self.step, strict=True))

    def share(self, steps: list[Seconds]) -> float:
        """Median share of preparation in a step and its loading.

        Args:
            steps: What the steps took, without loading.
        """
        rounds = zip(self.loader, self.step, steps, strict=True)
        return median((loader + within) / (loader + whole.cpu) for loader, within, whole in rounds)
