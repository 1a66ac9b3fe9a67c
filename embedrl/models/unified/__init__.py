"""Models that reason and embed: one vector behind the side, one behind the reasoning."""
