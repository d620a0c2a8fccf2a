"""Algorithms that lower the error of a format: sensitivity, scale estimation, AWQ, GPTQ, LoRA correction."""
