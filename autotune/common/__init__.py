"""Utilities that do not depend on models: files, cache, threads, units, number formats, YAML, validation, paths."""
