"""Search: vectors, T-CoTs, evidence and thumbnails of many items in one LanceDB table, added to and asked."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
