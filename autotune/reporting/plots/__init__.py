"""Matplotlib figures of a study."""
