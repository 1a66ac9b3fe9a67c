"""Several processes: collectives, FSDP2, loading and saving weights."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
