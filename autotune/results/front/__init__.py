"""The front of a study: which trials are on it, which one to choose, and its scores on other texts and settings."""
