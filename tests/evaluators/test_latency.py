"""Latency: two processes, measured in turn. No test looks at how fast anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.errors import EvaluationError
from autotune.evaluation import Evaluator, Measurement
from autotune.evaluation.stores import ReferenceStore
from evaluators.latency import Latency, _measurements

OPTIONS = {"prompt_tokens": 4, "new_tokens": 3, "rounds": 2}


class At:
    """A language model as far as latency needs one."""

    def __init__(self, source: Any) -> None:
        self.source = source


def _check(evaluator: Evaluator, scores: Any) -> None:
    assert set(scores) == set(evaluator.metrics)
    assert all(isinstance(score, Measurement) and score.value > 0.0 for score in scores.values())


def test_both_models_run_in_processes_of_their_own(tiny_llama: Path, tmp_path: Path) -> None:
    """A model in memory is measured beside the original's file; the reference survives the disk."""
    import openvino as ov

    evaluator = Latency(**OPTIONS)
    assert isinstance(evaluator, Evaluator)
    path = tiny_llama / "openvino_model.xml"
    model = ov.Core().read_model(path)
    reference, _ = ReferenceStore(tmp_path).get_or_create("it", lambda: evaluator.reference(At(path)))
    assert bytes(reference["path"]).decode() == str(path)
    scores = evaluator.evaluate(At(model), reference)
    _check(evaluator, scores)
    assert scores["peak_memory"].value > 2**24
    assert len(scores["tokens_per_second"].values) == 2
    stated = evaluator.original(reference)
    _check(evaluator, stated)
    for name, metric in evaluator.metrics.items():
        assert metric.perfect is None or stated[name].value == metric.perfect


def test_a_ratio_is_between_rounds_taken_together() -> None:
    """Load that affects both models of a round alike does not change their ratio."""
    originals = np.array([[1.0, 10.0, 100.0], [4.0, 2.5, 100.0], [2.0, 5.0, 100.0]])
    scores = _measurements(originals, originals * [0.5, 2.0, 0.25])
    assert scores["first_token_ratio"].value == pytest.approx(0.5)
    assert scores["tokens_per_second_ratio"].value == pytest.approx(2.0)
    assert scores["peak_memory_ratio"].value == pytest.approx(0.25)
    assert scores["first_token_ratio"].stderr == pytest.approx(0.0, abs=1e-12)
    assert scores["first_token"].value == 1.0


def test_an_original_without_a_file_is_an_error(tmp_path: Path) -> None:
    """Latency needs two files; one that is missing is said to be, before and after."""
    with pytest.raises(EvaluationError, match="needs the original as a file"):
        Latency().reference(At(None))
    missing = {"path": np.frombuffer(b"/nowhere/openvino_model.xml", np.uint8), "rounds": np.ones((2, 3))}
    with pytest.raises(EvaluationError, match="no longer at /nowhere"):
        Latency().evaluate(At(None), missing)


def test_a_model_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    """The last line of the worker's stderr is in the message."""
    broken = tmp_path / "openvino_model.xml"
    broken.write_text("<net/>")
    with pytest.raises(EvaluationError, match="cannot be run as deployed on CPU"):
        Latency(**OPTIONS).reference(At(broken))
