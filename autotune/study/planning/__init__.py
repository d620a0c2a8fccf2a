"""`autotune plan`: sizes, invalid settings, and the forecast of time, memory and disk."""
