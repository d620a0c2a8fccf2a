"""Tasks: found by name and from a model's files; a task of one's own takes one file."""
