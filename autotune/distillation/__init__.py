"""Distillation: training of a compressed model's scales, norm gains and biases against the original, in torch."""
