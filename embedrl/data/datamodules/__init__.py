"""The LightningDataModules of the three trainings."""
