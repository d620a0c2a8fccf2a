"""Presets of search spaces: one YAML file each, named by its file in model.yaml (``space: int4``).

A user copies one beside a model.yaml and changes it there. Other packages add presets by an entry point of the group
``autotune.search_spaces`` whose value is the package's name.
"""
