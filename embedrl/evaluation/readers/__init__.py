"""Readers of the public layouts, one per file: a local copy of a data set as a `RetrievalTask`."""
