"""A first run on a hub model that fails says what to do."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from autotune.common.cache import Cache
from autotune.errors import ConfigError, PrerequisiteError
from autotune.models.hub import download, hub_advice, is_hub_problem
from autotune.models.source import resolve_model


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


def test_a_downloaded_model_is_checked_like_a_folder(tiny_llama_hf: Path, tmp_path: Path) -> None:
    """Offline, its folder in the local hub cache is used; a file of it that is cut off is named."""
    from huggingface_hub.constants import HF_HUB_CACHE

    commit = "0123456789abcdef0123456789abcdef01234567"
    place = Path(HF_HUB_CACHE) / "models--autotune--tiny"
    folder = shutil.copytree(tiny_llama_hf, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    try:
        assert download("autotune/tiny", commit, weights=True) == folder
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:9000])
        with pytest.raises(ConfigError, match=r"model\.safetensors: is cut off"):
            resolve_model("autotune/tiny", cache=Cache.resolve(tmp_path))
    finally:
        shutil.rmtree(place)
    with pytest.raises(PrerequisiteError, match=r"the model autotune/tiny is neither a local folder nor"):
        download("autotune/tiny", commit, weights=False)
