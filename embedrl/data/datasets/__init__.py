"""Small real data sets, one per file."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
