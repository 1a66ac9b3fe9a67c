"""Pictures, videos and pages with their captions, from the files that people have, as pairs to train on."""

from embedrl.utils.public_names import lazy

__getattr__, __dir__ = lazy(__name__)
