"""Tiny models of many families: real configurations and processors, random weights, the built-in world's words."""
