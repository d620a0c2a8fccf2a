"""Fixtures of the results tests: made-up studies, in memory or in a folder."""

from __future__ import annotations

from study_fixtures import fake, folder, make, quiet_optuna

__all__ = ["fake", "folder", "make", "quiet_optuna"]
