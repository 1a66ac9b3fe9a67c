"""What a run shows: pictures, grids and summaries."""
