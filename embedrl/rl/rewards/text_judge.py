"""A discriminator without a generator: the candidate whose notes read most like the side's, by a text embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from embedrl.distributed.processes import Device, choose_device
from embedrl.errors import CheckpointError, ConfigError, NonFiniteError, RewardError
from embedrl.models.qwen_vl.loading import SHIPPED
from embedrl.rl.rewards.judge import Question, Verdict


class TextEmbedderJudge:
    """Takes the candidate whose notes are nearest to text and notes of the side, by the cosine of a text embedder.

    It has no favourite place, as it does not see the order. p(i) = softmax(cos(anchor, candidate i) / τ).

    Args:
        path: A folder or Hub name that sentence-transformers loads, such as an exported Embedder.
        temperature: τ of the probabilities; which candidate is taken does not depend on it.
        batch_size: Texts that go through it at once.
        device: Where it computes; auto takes a GPU if there is one.

    Raises:
        ConfigError: If a number is out of range.
    """

    sees_pictures = False

    def __init__(self, path: str, temperature: float = 0.05, batch_size: int = 64, device: Device = "auto") -> None:
        if not temperature > 0:
            raise ConfigError(f"judge.temperature is {temperature}: give a positive number, such as 0.05")
        if batch_size < 1:
            raise ConfigError(f"judge.batch_size is {batch_size}: give 1 or more")
        self.path, self.temperature, self.batch_size, self.device = path, temperature, batch_size, device
        self._model: Any = None

    @property
    def name(self) -> str:
        """See `Judge`."""
        return f"the text embedder {self.path}"

    @torch.no_grad()
    def choose(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `Judge`.

        Raises:
            CheckpointError: If the folder cannot be loaded.
            NonFiniteError: If a vector is NaN.
            RewardError: If a question does not hold its texts apart.
        """
        if not questions:
            return []
        for question in questions:
            if len(question.candidates) != question.choices:
                raise RewardError(f"{question.id}: a text embedder needs Question.anchor and Question.candidates")
        texts = list(dict.fromkeys(text for q in questions for text in (q.anchor, *q.candidates)))
        rows = {text: row for row, text in enumerate(texts)}
        vectors = self._encode(texts)
        verdicts = []
        for question in questions:
            cosines = vectors[[rows[text] for text in question.candidates]] @ vectors[rows[question.anchor]]
            probabilities = (cosines / self.temperature).softmax(0)
            verdicts.append(Verdict(int(cosines.argmax()), probabilities=tuple(probabilities.tolist())))
        return verdicts

    def _encode(self, texts: list[str]) -> torch.Tensor:
        if self._model is None:
            self._model = _load(self.path, str(choose_device(self.device)))
        encoded: torch.Tensor = self._model.encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_tensor=True,
            normalize_embeddings=True,
        )
        vectors = encoded.double().cpu()
        if not vectors.isfinite().all():
            raise NonFiniteError(f"{self.name}: a vector is NaN or infinite; look at its checkpoint")
        return vectors


def _load(path: str, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(SHIPPED.get(path, path)), device=device).eval()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"judge.path {path}: sentence-transformers cannot load it ({error})") from error
