"""What a user can do when a model cannot be had from the Hugging Face hub."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from autotune.errors import reason

__all__ = ["hub_advice", "is_hub_problem"]

_MISSING = {"RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError", "HFValidationError"}


def hub_advice(model: str, error: BaseException) -> str:
    """Why a model could not be had, and what to do, as one clause after ``the model X``.

    Args:
        model: its hub id.
        error: whatever the hub's client, the exporter or the disk raised; its causes are looked at, too.
    """
    chain = list(_causes(error))
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
    why = reason(error)
    if why == "the hub could not be reached":
        return (
            "is neither a local folder nor in the local hub cache, and the hub could not be reached: check the network "
            "(and HF_HUB_OFFLINE, HTTPS_PROXY), or name a local folder"
        )
    return f"could not be had from the hub ({why}): check name, network and `hf auth whoami`, or name a local folder"


def is_hub_problem(error: BaseException) -> bool:
    """Whether an error is about the hub or the disk, and not about the model's architecture."""
    chain = list(_causes(error))
    full = any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain)
    known = {"GatedRepoError", *_MISSING} & {type(link).__name__ for link in chain}
    return full or bool(known) or reason(error) == "the hub could not be reached"


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__
