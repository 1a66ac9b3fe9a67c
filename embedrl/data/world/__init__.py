"""The built-in procedural world: scenes, videos, pages, task families, teachers."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
