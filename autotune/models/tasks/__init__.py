"""Tasks: what a model does, one module for each; see `task.Task`."""
