"""Byte budgets: choose a variant for each weight from measured errors."""
