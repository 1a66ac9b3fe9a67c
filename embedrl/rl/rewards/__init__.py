"""Rewards of EG-RL, one per file; a recipe lists them with weights. Source: Embed-RL §3.3, Eq. 3-5."""
