"""Choice of the next point: samplers, initial points, proposals."""
