"""embedrl: reasoning-driven multimodal embeddings (Embed-RL, arXiv 2602.13823)."""

from embedrl.utils.public_names import lazy

__version__ = "0.1.0"

__getattr__, __dir__ = lazy(__name__)
