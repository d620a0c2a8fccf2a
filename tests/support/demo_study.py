"""A study of the tiny Llama on the demo's texts, laid out as a user would, and a reader of its tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml

__all__ = ["EVALUATORS", "rows", "write_config", "write_texts"]

DEMO = Path(__file__).parents[2] / "examples" / "demo"
TEXTS = ("calibration.txt", "search.txt", "prompts.txt")

EVALUATORS: dict[str, Any] = {
    "similarity": {"prompts": "prompts.txt", "max_new_tokens": 12, "embedder": "minilm"},
    "perplexity": {"path": "search.txt", "sequence_length": 32, "samples": 16},
}
CONFIG: dict[str, Any] = {
    "output": "study",
    "calibration": {"path": "calibration.txt", "samples": 8, "sequence_length": 32},
    "space": {
        "mode": ["int8_asym", "int4_asym", "int4_sym"],
        "group_size": [32, 64],
        "ratio": [0.6, 1.0],
        "sensitivity_metric": "hessian_input_activation",
        "all_layers": [False, True],
        "awq": [False, True],
        "scale_estimation": [False, True],
    },
    "evaluators": EVALUATORS,
}


def write_texts(folder: Path) -> None:
    """Write the first pages of the demo's texts, and three of its prompts."""
    for name in ("calibration.txt", "search.txt"):
        (folder / name).write_text((DEMO / name).read_text(encoding="utf-8")[:6000], encoding="utf-8")
    prompts = (DEMO / "prompts.txt").read_text(encoding="utf-8").splitlines()[:3]
    (folder / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")


def write_config(folder: Path, model: Path, *, trials: int = 8, **changes: Any) -> None:
    """Write texts and `model.yaml` of a study of `model`; `changes` replaces whole sections."""
    write_texts(folder)
    study = {"trials": trials, "seed": 3, "workers": 1}
    config = {"model": str(model), **CONFIG, "study": study, **changes}
    (folder / "model.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def rows(study: Path, name: str = "trials.csv") -> list[dict[str, str]]:
    """A CSV file of a study."""
    with (study / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
