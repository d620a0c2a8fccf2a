"""Utilities that know nothing about models: files, cache, threads, units, number formats, YAML, validation, paths."""
