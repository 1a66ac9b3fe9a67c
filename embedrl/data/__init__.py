"""Records, media, rendering, batches and data modules."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
