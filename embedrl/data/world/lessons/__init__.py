"""Lessons that teach the built-in world, as a curriculum."""
