"""Search spaces: parameters, conditions between them, presets."""
