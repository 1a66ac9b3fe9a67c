"""The cost of a recipe: parameters, memory, tokens and FLOPs, computed from its configuration alone."""
