"""The commands of `embedrl`, one per file."""
