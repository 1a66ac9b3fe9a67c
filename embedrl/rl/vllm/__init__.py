"""Rollouts by a server: vLLM behind an OpenAI-compatible endpoint."""
