"""Models: found and exported, given in memory, saved, and run by OpenVINO."""
