"""A finished or running study as data, read from its storage alone."""
