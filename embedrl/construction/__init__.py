"""Data construction: sample → annotate → filter → split. Source: Embed-RL §3.2, C."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
