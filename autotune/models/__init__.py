"""Models in and out: resolve, export and save a model."""
