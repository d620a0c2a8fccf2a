"""The study's folder and Optuna storage: trials, attributes, manifest, locks."""
