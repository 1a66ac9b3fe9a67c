"""What `scripts/fuzz.py` throws at the borders of embedrl: one file for each kind of thing that comes from outside."""
