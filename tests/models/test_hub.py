"""A first run on a hub model that fails says what to do."""

from __future__ import annotations

import errno

import pytest

from autotune.models.hub import hub_advice, is_hub_problem


class GatedRepoError(Exception):
    """As the hub's client names it."""


class RepositoryNotFoundError(Exception):
    """As the hub's client names it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("403 Client Error"), "accept its terms at https://huggingface.co/org/model"),
        (RepositoryNotFoundError("401 Client Error"), "is not on the hub under this name, or is private"),
        (OSError(errno.ENOSPC, "No space left on device"), "AUTOTUNE_CACHE"),
        (ConnectionError("Name or service not known"), "check the network"),
        (RuntimeError("odd"), "could not be had from the hub (odd)"),
    ],
)
def test_each_failure_has_its_advice(error: Exception, message: str) -> None:
    """However deep a library wraps it."""
    wrapped = RuntimeError("could not load")
    wrapped.__cause__ = error
    assert message in hub_advice("org/model", error)
    if not isinstance(error, RuntimeError):
        assert message in hub_advice("org/model", wrapped)
        assert is_hub_problem(wrapped)
    else:
        assert not is_hub_problem(error)
