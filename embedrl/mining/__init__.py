"""Hard negatives: an Embedder finds what is easily mistaken for a query's target."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
