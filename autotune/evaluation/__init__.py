"""Public API for evaluators: all that a package needs to add one.

The protocol:

- `Evaluator` is what to implement; `Bounding`, `Checking`, `Describing`, `HeldOut`, `PartedEvaluator`, `Previewing`
  and `StagedEvaluator` are optional extensions.
- `LanguageModel`, or `Encoder` for tasks without generation, is what an evaluator scores; `Reference` is what it keeps
  of the original model.
- `Metric`, `Measurement` and `Example` describe and hold scores.
- `follow_draft` reads a greedy answer off one forward pass along a draft; `complete_answers` decodes the rest;
  `answers_along` does both.
- `SCORING_CONFIG` has the OpenVINO properties under which models are scored.
- `FloatArray`, `IntArray`, `Choose` and `Visit` are types for annotations; import them under ``TYPE_CHECKING``.

Texts (imported when first used, as they need NumPy and pydantic):

- `TextSource` are the options of a text source; `read_texts`, `read_rows`, `read_windows` and `describe_source`
  use one.
- `TextEvaluator` with `TextOptions` is a base for evaluators of consecutive parts of a text.
- `read_prompts` reads prompts from text, CSV, YAML or JSON, and `read_images` their images; `is_english` guesses the
  language of one.
- `read_conversations` reads conversations, each as a list of user turns, from YAML or JSON.
- `generate_windows` lets the model write the text; `synthetic_fingerprint` identifies its arguments.

Sequential scoring:

- `scoring_order` and `looks` are the order of windows and the blocks of a `StagedEvaluator`.

Fingerprints and storage:

- `fingerprint` and `fingerprint_file` are for `Evaluator.fingerprint`.
- `ReferenceStore` stores references on disk.

`autotune.errors` has the exceptions, `autotune.testing` a conformance suite and a fake language model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autotune.evaluation.drafts import answers_along, complete_answers, follow_draft
from autotune.evaluation.protocol import (
    SCORING_CONFIG,
    Bounding,
    Checking,
    Describing,
    Direction,
    Encoder,
    Evaluator,
    Example,
    HeldOut,
    LanguageModel,
    Measurement,
    Metric,
    PartedEvaluator,
    Previewing,
    Reference,
    StagedEvaluator,
)

if TYPE_CHECKING:
    from autotune.common.files import fingerprint, fingerprint_file
    from autotune.evaluation.protocol import Choose as Choose
    from autotune.evaluation.protocol import FloatArray as FloatArray
    from autotune.evaluation.protocol import IntArray as IntArray
    from autotune.evaluation.protocol import Visit as Visit
    from autotune.evaluation.sequential import looks, scoring_order
    from autotune.evaluation.stores import ReferenceStore
    from autotune.evaluation.texts.evaluator import TextEvaluator, TextOptions
    from autotune.evaluation.texts.prompts import is_english, read_conversations, read_images, read_prompts
    from autotune.evaluation.texts.sources import TextSource, describe_source, read_rows, read_texts, read_windows
    from autotune.evaluation.texts.sources import token_windows as token_windows
    from autotune.evaluation.texts.synthetic import generate_windows, synthetic_fingerprint

__all__ = [
    "SCORING_CONFIG",
    "Bounding",
    "Checking",
    "Describing",
    "Direction",
    "Encoder",
    "Evaluator",
    "Example",
    "HeldOut",
    "LanguageModel",
    "Measurement",
    "Metric",
    "PartedEvaluator",
    "Previewing",
    "Reference",
    "ReferenceStore",
    "StagedEvaluator",
    "TextEvaluator",
    "TextOptions",
    "TextSource",
    "answers_along",
    "complete_answers",
    "describe_source",
    "fingerprint",
    "fingerprint_file",
    "follow_draft",
    "generate_windows",
    "is_english",
    "looks",
    "read_conversations",
    "read_images",
    "read_prompts",
    "read_rows",
    "read_texts",
    "read_windows",
    "scoring_order",
    "synthetic_fingerprint",
    "token_windows",
]

_LAZY = {
    "autotune.common.files": ("fingerprint", "fingerprint_file"),
    "autotune.evaluation.sequential": ("looks", "scoring_order"),
    "autotune.evaluation.stores": ("ReferenceStore",),
    "autotune.evaluation.texts.evaluator": ("TextEvaluator", "TextOptions"),
    "autotune.evaluation.texts.prompts": ("is_english", "read_conversations", "read_images", "read_prompts"),
    "autotune.evaluation.texts.sources": (
        "TextSource",
        "describe_source",
        "read_rows",
        "read_texts",
        "read_windows",
        "token_windows",
    ),
    "autotune.evaluation.texts.synthetic": ("generate_windows", "synthetic_fingerprint"),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
