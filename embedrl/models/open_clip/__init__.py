"""Two-tower models of open_clip as an embedding backbone."""
