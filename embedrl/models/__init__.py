"""Backbones and generators: their contracts, and a package for each model family."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
