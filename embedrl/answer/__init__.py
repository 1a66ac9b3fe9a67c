"""Answers: a question to an index, a model's answer with numbered sources, and pictures behind its sentences."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
