"""autotune finds the smallest OpenVINO language model that still answers like the original."""

__version__ = "0.1.0"
