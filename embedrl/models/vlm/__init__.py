"""Vision-language models of any family that transformers knows, as Embedder and as Reasoner."""
