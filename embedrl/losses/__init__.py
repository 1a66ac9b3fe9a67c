"""Losses: tensors in, loss and metrics out, no model inside."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
