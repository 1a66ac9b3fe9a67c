"""Qwen3-VL as Embedder and as Reasoner."""
