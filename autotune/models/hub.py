"""Hugging Face hub: downloads, checks before an upload, and advice where something fails."""

from __future__ import annotations

import errno
import importlib
import json
import math
import sys
import warnings
from pathlib import Path

from yaml import YAMLError

from autotune.errors import PrerequisiteError, StudyError, UsageError, reason
from autotune.models.companions import main_file

_MISSING = {"RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError", "HFValidationError"}
_UNREACHABLE = "the hub could not be reached"


def import_progress_bars() -> None:
    """Import the hub's progress bars without their warning, once a notebook, that ipywidgets is not installed."""
    if "ipykernel" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("tqdm.auto")


def hub_advice(model: str, error: BaseException) -> str:
    """Say why a model could not be downloaded and what to do, as one clause after ``the model X``.

    Args:
        model: its hub id.
        error: any error of the hub's client, the exporter or the disk; its causes are examined, too.
    """
    return _known_problem(model, error) or (
        f"could not be had from the hub ({reason(error)}): check name, network and `hf auth whoami`, or name a local "
        "folder"
    )


def is_hub_problem(error: BaseException) -> bool:
    """Return True if an error is about the hub or the disk, and not about the model's architecture."""
    return _known_problem("", error) is not None


def _known_problem(model: str, error: BaseException) -> str | None:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {type(link).__name__ for link in chain}
    if "GatedRepoError" in names:
        return (
            f"is gated: accept its terms at https://huggingface.co/{model}, then run `hf auth login` with a token that "
            "may read it"
        )
    if any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain):
        return (
            "does not fit on the disk: free some, or set HF_HOME (downloads) and cache.directory or AUTOTUNE_CACHE "
            "(exports) to a larger one"
        )
    if names & _MISSING:
        return (
            "is not on the hub under this name, or is private: check the name at https://huggingface.co/models, and "
            "for a private model run `hf auth login`"
        )
    if reason(error) == _UNREACHABLE:
        return (
            "is neither a local folder nor in the local hub cache, and the hub could not be reached: check the network "
            "(and HF_HUB_OFFLINE, HTTPS_PROXY), or name a local folder"
        )
    return None


def check_on_hub(model: str) -> None:
    """Check that the hub, or its local cache, has a model.

    Raises:
        PrerequisiteError: it has not, or cannot be reached.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        if not isinstance(try_to_load_from_cache(model, "config.json"), str):
            HfApi().model_info(model, timeout=10)
    except Exception as error:
        raise PrerequisiteError(f"the model {model} {hub_advice(model, error)}") from error


def check_repository(name: str) -> None:
    """Check the name of a repository on the hub, without network.

    Raises:
        UsageError: the hub would refuse it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"`upload` {name!r} is no repository's name: {reason(error)}; write owner/name") from error
    if "/" not in name:
        raise UsageError(f"`upload` {name!r} has no owner; write owner/name, such as me/{name}")


def check_upload(folder: Path) -> None:
    """Check the model card and the files of a model's folder as the hub does at a commit, without network.

    Raises:
        StudyError: the hub would refuse the folder.
    """
    from huggingface_hub import CommitOperationAdd, ModelCard
    from huggingface_hub.repocard_data import model_index_to_eval_results
    from huggingface_hub.utils import validate_repo_id

    where = folder / "README.md"
    try:
        data = ModelCard(where.read_text(encoding="utf-8"), ignore_metadata_errors=False).data.to_dict()
        if "base_model" in data:
            validate_repo_id(data["base_model"])
        for index in data.get("model-index", ()):
            _, results = model_index_to_eval_results([index])
            if any(isinstance(each.metric_value, float) and not math.isfinite(each.metric_value) for each in results):
                raise ValueError("a score of model-index is not a finite number")
        for where in sorted(path for path in folder.rglob("*") if path.is_file()):
            if where.suffix == ".json":
                json.loads(where.read_text(encoding="utf-8"))
            CommitOperationAdd(path_in_repo=where.relative_to(folder).as_posix(), path_or_fileobj=where)
    except (ValueError, KeyError, OSError, YAMLError) as error:
        raise StudyError(f"{where}: the hub would refuse this file: {reason(error)}") from error
    needed = (folder / "config.json", main_file(folder), main_file(folder).with_suffix(".bin"))
    missing = [file.name for file in needed if not file.is_file()]
    if missing:
        raise StudyError(f"{folder}: not a complete model for the hub; missing: {', '.join(missing)}")


SMALL = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.jinja", "*.py", "LICENSE*", "NOTICE*", "USE_POLICY*"]
"""Configuration, tokenizer and processor, code and licence."""
OF_PARTS = ["additional_chat_templates/*.jinja", "[0-9]*_*/config.json"]
"""Small files in folders: templates, and modules of sentence-transformers."""
SUBFOLDERS = ["*/*"]
"""Other formats of the same weights, such as ``onnx/`` and ``original/``."""


def download(model: str, revision: str, *, weights: bool) -> Path:
    """Download a hub model, or only its small files; return its folder in the local hub cache.

    Weights are downloaded in safetensors if the model has them, else as PyTorch files.

    Args:
        model: its hub id.
        revision: its commit.
        weights: False leaves the weights out, so that configuration and tokenizer can be checked before.

    Raises:
        PrerequisiteError: it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=SMALL, ignore_patterns=SUBFOLDERS))
        if not weights:
            snapshot_download(model, revision=revision, allow_patterns=OF_PARTS)
        for pattern in ("*.safetensors", "pytorch_model*.bin") if weights else ():
            snapshot_download(
                model, revision=revision, allow_patterns=[pattern], ignore_patterns=[*SUBFOLDERS, "consolidated*"]
            )
            if any(folder.glob(pattern)):
                break
    except Exception as error:
        raise PrerequisiteError(f"the model {model} {hub_advice(model, error)}") from error
    return folder
