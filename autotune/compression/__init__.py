"""The compression engine: plan, then apply. It knows OpenVINO and numbers, and nothing of Optuna or YAML."""
