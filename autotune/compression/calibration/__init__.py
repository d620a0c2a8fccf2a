"""Statistics of activations: the calibration pass, its segments, and the cache of its results."""
