"""Distillation of the tiny Llama: what it changes, what it keeps, and that it is repeatable."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from autotune.common.cache import folder_size
from autotune.common.threads import cores, limited_to
from autotune.compression.bank import Bank
from autotune.compression.ir.constants import model_digest, raw_bytes, type_name
from autotune.compression.ir.sizes import Sizes
from autotune.distillation import codes, curvature, memory
from autotune.distillation import distil as module
from autotune.distillation.distil import check, distil
from autotune.distillation.graph import Graph
from autotune.distillation.parameters import find_trainable
from autotune.distillation.sweeps import Sweep
from autotune.distillation.training import Student
from autotune.errors import PlanError

INT4 = {"mode": "int4_sym", "group_size": 32}


def sizes(model: Any) -> tuple[int, list[tuple[str, int]]]:
    """Of the file, in which equal constants are written once; and of all constants, with their types."""
    constants = [n for n in model.get_ordered_ops() if n.get_type_name() == "Constant"]
    return Sizes(model).original, sorted((type_name(n), raw_bytes(n).nbytes) for n in constants)


@pytest.fixture
def trained(llama: Any, compressed: Callable[..., Any], tokens: Any, tmp_path: Path) -> Callable[..., Any]:
    """Distil a new compressed model: the model, and the outcome."""

    def run(bank: Bank | None = None, texts: Any = None, *, memory: int = 1 << 40, **options: Any) -> tuple[Any, Any]:
        model, names = compressed(**INT4)
        given = tokens if texts is None else texts
        places = {"bank": bank or Bank(), "scratch": tmp_path / "scratch"}
        outcome = distil(llama, model, names, given, memory=memory, **places, **options)
        return model, outcome

    return run


def test_divergence_falls_at_the_same_size(trained: Callable[..., Any], compressed: Callable[..., Any]) -> None:
    """The held-out windows confirm it; constants keep their types and sizes."""
    before, _ = compressed(**INT4)
    model, outcome = trained()
    assert outcome.kept
    assert outcome.after < 0.99 * outcome.before
    assert sizes(model) == sizes(before)
    assert model_digest(model) != model_digest(before)


def test_same_bytes_with_any_threads_and_from_the_bank(trained: Callable[..., Any], tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank")
    with limited_to(1):
        one, _ = trained(bank)
    with limited_to(3):
        three, _ = trained()
    messages: list[str] = []
    again, _ = trained(Bank(tmp_path / "bank"), stage=messages.append)
    assert model_digest(one) == model_digest(three) == model_digest(again)
    assert messages == []


def test_limited_memory_changes_no_byte(
    trained: Callable[..., Any], llama: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Blocks are computed one at a time, and once more for the gradients; the disk holds what is forecast."""
    whole, expected = trained()
    monkeypatch.setattr(memory, "LIMITS", (0,))
    monkeypatch.setattr(curvature, "SAVED_EVERY", 0.0)
    messages, on_disk = list[str](), list[int]()

    def stage(message: str) -> None:
        messages.append(message)
        on_disk.append(folder_size(tmp_path / "scratch"))

    divided, outcome = trained(memory=0, stage=stage)
    assert any("block 2 of " in message for message in messages)
    forecast = memory.divide(llama, tokens.shape, 0).disk
    assert 0.5 * forecast < max(on_disk) < forecast
    assert outcome == expected
    assert model_digest(divided) == model_digest(whole)


def test_a_killed_run_continues_to_the_same_bytes(
    trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Checkpoints are written as the training goes on; the rest of it starts from the last one."""
    expected, _ = trained()
    monkeypatch.setattr(module, "SAVED_EVERY", 0.0)

    def die(message: str) -> None:
        if re.search(r"\b5 of \d+ steps", message):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(stage=die)
    assert list((tmp_path / "scratch").glob("*.safetensors"))
    messages: list[str] = []
    resumed, _ = trained(stage=messages.append)
    assert model_digest(resumed) == model_digest(expected)
    assert not any(re.search(r"\b4 of \d+ steps", message) for message in messages)
    assert list((tmp_path / "scratch").glob("*.safetensors")) == []


@pytest.mark.parametrize("allowed", [1 << 40, 0])
def test_a_killed_rounding_continues_to_the_same_codes(
    trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: int
) -> None:
    """Undivided and in blocks. No piece of work is done twice but what was in flight, and what was damaged."""
    work: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            work[name.strip("_")] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for place, name in [(Sweep, "_through"), (curvature, "_pairs"), (codes, "round_both_sides")]:
        counted(place, name)
    counted(Student, "divergences")
    monkeypatch.setattr(module, "_trained", lambda *_: {module.HELD_OUT_KEY: np.zeros((2, 1))})
    monkeypatch.setattr(module, "CONFIDENCE", -1e6)
    monkeypatch.setattr(memory, "LIMITS", (0,))
    monkeypatch.setattr(curvature, "SAVED_EVERY", 0.0)
    expected, _ = trained(memory=allowed)
    once, work = +work, Counter()

    def killed(at: str) -> None:
        def die(message: str) -> None:
            if re.search(at, message):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(memory=allowed, stage=die)

    for at in [*(["activations, block 3 "] if not allowed else []), r"gradients of 8 of \d+ windows", "rounding 5 of"]:
        killed(at)
    resumed, _ = trained(memory=allowed)
    assert model_digest(resumed) == model_digest(expected)
    assert work["round_both_sides"] == once["round_both_sides"]
    assert work["through"] == once["through"]
    assert work["divergences"] == once["divergences"]
    assert work["pairs"] <= once["pairs"] + 2 * cores()
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_dir()]

    killed("rounding 5 of")
    damaged = [path for path in sorted((tmp_path / "scratch").rglob("*")) if path.is_file() and path.stat().st_size]
    for path in damaged[::2]:
        path.write_bytes(path.read_bytes()[:-1])
    again, _ = trained(memory=allowed)
    assert model_digest(again) == model_digest(expected)


def test_what_does_not_help_changes_nothing(
    trained: Callable[..., Any], compressed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that are not better on the held-out windows with confidence are dropped."""
    before, _ = compressed(**INT4)
    monkeypatch.setattr(module, "CONFIDENCE", 1e6)
    model, outcome = trained()
    assert not outcome.kept
    assert model_digest(model) == model_digest(before)


def test_constants_that_are_stored_once_stay_equal() -> None:
    """Equal vectors are one parameter; a vector that is equal to a constant that stays is not trained."""
    import openvino as ov
    from openvino import opset15 as ops

    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).set_names({"input_ids"})
    gain, other = np.linspace(1, 2, 8, dtype=np.float32), np.linspace(2, 3, 8, dtype=np.float32)
    x = ops.gather(np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32), ids, np.int64(0))
    for vector in (gain, gain, other):
        x = ops.multiply(x, ops.constant(vector))
    table = ops.gather(ops.constant(other), ids, np.int64(0))  # the same bytes, of a constant that is not trained
    x = ops.add(x, ops.unsqueeze(table, np.int64(-1)))
    logits = ops.matmul(x, np.ones((8, 16), np.float32), False, False)
    logits.output(0).set_names({"logits"})
    graph = Graph(ov.Model([ops.result(logits)], [ids], ""))
    found = find_trainable(graph, ())
    assert [len(trainable.steps) for trainable in found] == [2]
    np.testing.assert_array_equal(found[0].start, gain)


def test_gradient_is_that_of_the_divergence(llama: Any, compressed: Callable[..., Any], tokens: Any) -> None:
    """Against differences, on scales, norm gains, and through the head in pieces."""
    model, names = compressed(**INT4)
    graph = Graph(model)
    found = find_trainable(graph, names)
    kinds = {graph.steps[t.steps[0]].name.endswith("/scale") for t in found}
    assert kinds == {True, False}
    smooth = [type(t)(t.steps, "f32", t.start, t.unit) for t in found]  # differences do not see rounded values
    student = Student(Graph(llama), graph, smooth, torch.from_numpy(tokens[:4]))
    student.prepare()
    student._chunk = lambda: 7  # type: ignore[method-assign]
    zeros = torch.zeros(student.size)
    gradient = student.gradient(zeros, [0, 1, 2, 3])
    direction = torch.from_numpy(np.random.default_rng(0).standard_normal(student.size)).float()
    step = 2e-3 * direction
    ends = [student.divergences(sign * step, [0, 1, 2, 3]).mean() for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(float(gradient @ step), rel=0.05)


def test_refused_before_work(llama: Any, tokens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "cache" / "scratch"
    with pytest.raises(PlanError, match="at least 16 windows"):
        check(llama, tokens[:4], 1 << 40, scratch)
    texts = np.tile(tokens, (2, 1))
    least = memory.divide(llama, texts.shape, 0)
    with pytest.raises(PlanError, match=r"needs about .* GB of memory.*study\.memory_limit"):
        check(llama, texts, least.needed - 1, scratch)
    check(llama, texts, least.needed, scratch)
    free = least.disk - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(PlanError, match=rf"temporary files in {scratch}.*cache\.directory"):
        check(llama, texts, least.needed, scratch)
    scratch.mkdir(parents=True)
    (scratch / "left by a killed run").write_bytes(b"x")
    check(llama, texts, least.needed, scratch)
