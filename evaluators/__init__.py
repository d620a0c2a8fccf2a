"""Built-in evaluators, which use the public API of `autotune.evaluation` alone and register by entry points."""
