"""Backbones, losses and LightningModules."""
