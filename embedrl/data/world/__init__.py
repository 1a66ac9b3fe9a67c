"""The built-in procedural world: scenes, task families, teachers."""
