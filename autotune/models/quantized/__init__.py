"""Quantized checkpoints of Hugging Face, brought into OpenVINO's form without requantization."""
