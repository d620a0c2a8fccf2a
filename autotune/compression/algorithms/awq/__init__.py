"""Channel scales (AWQ): which weights share an input, where a scale can be merged, and its search."""
