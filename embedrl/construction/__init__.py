"""Data construction: sample → annotate → filter → split. Source: Embed-RL §3.2, C."""
