"""Readers of the public layouts, one a file: a local copy of a data set as a `RetrievalTask`."""
