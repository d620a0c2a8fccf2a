"""Which point is tried next: samplers, initial points, proposals."""
