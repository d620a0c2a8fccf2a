"""The search: propose settings, run trials, store results."""
