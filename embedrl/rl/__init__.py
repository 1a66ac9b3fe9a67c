"""EG-RL: the frozen Embedder rewards the Reasoner. Source: Embed-RL §3.3."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
