"""The LightningModules and what a training run needs."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
