"""One trial: its model, its scores, racing, held-out texts."""
