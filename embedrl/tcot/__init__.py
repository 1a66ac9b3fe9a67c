"""The T-CoT: schema, parser, prompts and evidence. Imports no torch."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
