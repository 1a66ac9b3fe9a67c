"""What a recipe takes: parameters, memory, tokens and FLOPs, from its configuration alone."""
