"""Texts and prompts: read from files, datasets, or written by the model."""
