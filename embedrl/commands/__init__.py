"""The commands of `embedrl`, one a file."""
