"""A first run on a hub model that fails says what to do."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from autotune.common.cache import Cache
from autotune.errors import ConfigError, PrerequisiteError, StudyError, UsageError
from autotune.models.companions import COPIED_FILES
from autotune.models.hub import (
    OF_PARTS,
    SMALL,
    SUBFOLDERS,
    check_repository,
    check_upload,
    download,
    hub_advice,
    is_hub_problem,
)
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


def test_every_small_file_of_a_model_is_downloaded() -> None:
    """All that a compressed folder has of the original, the processor of images included."""
    from huggingface_hub.utils import filter_repo_objects

    names = [name.replace("[0-9]*_*", "1_Pooling").replace("*", "a") for name in COPIED_FILES]
    found = {*filter_repo_objects(names, allow_patterns=SMALL, ignore_patterns=SUBFOLDERS)}
    assert {*found, *filter_repo_objects(names, allow_patterns=OF_PARTS)} == set(names)


CARD = """\
---
base_model: org/llama
library_name: openvino
model-index:
- name: llama
  results:
  - task: {type: text-generation}
    dataset: {name: a text, type: text}
    metrics: [{type: kl_divergence, value: 0.5}]
---
# A model
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("README.md", "org/llama", "models/org/llama", "README.md: the hub would refuse this file"),
        ("README.md", "value: 0.5", "value: .nan", "not a finite number"),
        ("README.md", "    dataset: {name: a text, type: text}\n", "", "README.md: the hub would refuse this file"),
        ("README.md", "base_model: org", "base_model: [org", "README.md: the hub would refuse this file"),
        ("config.json", "{}", "{", "config.json: the hub would refuse this file"),
        ("openvino_model.bin", "", None, "missing: openvino_model.bin"),
    ],
)
def test_a_folder_that_the_hub_refuses_is_found_without_network(
    tmp_path: Path, file: str, old: str, new: str | None, message: str
) -> None:
    """By the hub's own rules for cards, scores, names and files; a complete folder passes."""
    files = {"README.md": CARD, "config.json": "{}", "openvino_model.xml": "<net/>", "openvino_model.bin": "weights"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    check_upload(tmp_path)
    if new is None:
        (tmp_path / file).unlink()
    else:
        assert old in files[file]
        (tmp_path / file).write_text(files[file].replace(old, new))
    with pytest.raises(StudyError, match=message):
        check_upload(tmp_path)


def test_names_of_repositories_are_checked() -> None:
    """Owner and name, by the hub's rules."""
    check_repository("me/model-int4-ov")
    for name in ("model", "me/my model", "me/model/x", "me/-model", "me/model.git"):
        with pytest.raises(UsageError, match="owner/name"):
            check_repository(name)
