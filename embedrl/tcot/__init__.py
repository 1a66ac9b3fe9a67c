"""The T-CoT: schema, parser, prompts and evidence. Imports no torch."""
