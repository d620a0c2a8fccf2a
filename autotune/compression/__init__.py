"""The compression engine: settings to a plan, a plan to an `ov.Model`. Needs OpenVINO and NumPy only."""
