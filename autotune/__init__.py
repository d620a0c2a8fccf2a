"""autotune finds the smallest OpenVINO language model that still answers like the original.

Functions: `compress`, `evaluate`, `search`, `load_study`, `plan`, `compare`, `reproduce`, `worker`. Classes: `Config`,
`Study`, `CompressedModel`, `Scores`. They are imported when first used; `import autotune` alone imports nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.common.version import __version__

if TYPE_CHECKING:
    from autotune.api import compare, compress, evaluate, load_study, plan, reproduce, search, worker
    from autotune.config.config import Config
    from autotune.evaluation.scores import Scores
    from autotune.study.single import CompressedModel
    from autotune.study.view import Study

__all__ = [
    "CompressedModel",
    "Config",
    "Scores",
    "Study",
    "__version__",
    "compare",
    "compress",
    "evaluate",
    "load_study",
    "plan",
    "reproduce",
    "search",
    "worker",
]

_HOMES = {
    **dict.fromkeys(
        ("compare", "compress", "evaluate", "load_study", "plan", "reproduce", "search", "worker"), "autotune.api"
    ),
    "Config": "autotune.config.config",
    "CompressedModel": "autotune.study.single",
    "Scores": "autotune.evaluation.scores",
    "Study": "autotune.study.view",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
