"""Ranking, retrieval metrics, scores of replies and of evidence."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
