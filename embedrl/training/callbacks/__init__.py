"""Callbacks, one per file."""
