"""Models in a program: `Embedder` and `Reasoner`, thin faces of the rooms above."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
