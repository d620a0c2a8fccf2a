"""model.yaml: parsing, validation, and the template that `autotune init` writes."""
