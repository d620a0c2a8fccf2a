"""Reading and writing `ov.Model`: its weights, constants, sizes, and the compressed model."""
