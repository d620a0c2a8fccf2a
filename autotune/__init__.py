"""autotune finds the smallest OpenVINO model that still answers like the original.

Functions: `init`, `search`, `worker`, `plan`, `load_study`, `list_studies`, `compare`, `reproduce`, `compress`,
`evaluate`. Classes: `Config`, `Study`, `CompressedModel`, `Scores`, and the callbacks `WeightsAndBiasesCallback`,
`MLflowCallback`, `TensorBoardCallback`. They are imported when first used; `import autotune` alone imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.common.version import __version__

if TYPE_CHECKING:
    from autotune.api import compare, compress, evaluate, load_study, plan, reproduce, search, worker
    from autotune.config.config import Config
    from autotune.config.starter import init
    from autotune.evaluation.scores import Scores
    from autotune.reporting.listing import list_studies
    from autotune.reporting.trackers import MLflowCallback, TensorBoardCallback, WeightsAndBiasesCallback
    from autotune.study.single import CompressedModel
    from autotune.study.view import Study

__all__ = [
    "CompressedModel",
    "Config",
    "MLflowCallback",
    "Scores",
    "Study",
    "TensorBoardCallback",
    "WeightsAndBiasesCallback",
    "__version__",
    "compare",
    "compress",
    "evaluate",
    "init",
    "list_studies",
    "load_study",
    "plan",
    "reproduce",
    "search",
    "sweep",
    "worker",
]

_HOMES = {
    **dict.fromkeys(("compare", "compress", "evaluate", "load_study", "plan", "reproduce"), "autotune.api"),
    **dict.fromkeys(("search", "sweep", "worker"), "autotune.api"),
    **dict.fromkeys(
        ("MLflowCallback", "TensorBoardCallback", "WeightsAndBiasesCallback"), "autotune.reporting.trackers"
    ),
    "Config": "autotune.config.config",
    "CompressedModel": "autotune.study.single",
    "Scores": "autotune.evaluation.scores",
    "Study": "autotune.study.view",
    "init": "autotune.config.starter",
    "list_studies": "autotune.reporting.listing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
