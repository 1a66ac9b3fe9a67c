"""Records, media, rendering, batches and data modules."""
