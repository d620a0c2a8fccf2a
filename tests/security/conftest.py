"""Fixtures of the security tests: made-up studies."""

from __future__ import annotations

from study_fixtures import fake, make, quiet_optuna

__all__ = ["fake", "make", "quiet_optuna"]
