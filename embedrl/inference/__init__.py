"""Models in use: the frozen Embedder, and a Reasoner that writes T-CoTs."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
