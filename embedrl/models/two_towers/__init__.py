"""Two-tower models of transformers as an embedding backbone, and what they share with open_clip's."""
