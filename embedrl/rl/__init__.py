"""EG-RL: the frozen Embedder rewards the Reasoner. Source: Embed-RL §3.3."""
