from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from builders import cast_weights, chain, constants, language_chain, normal

from autotune.compression.algorithms.sensitivity import Int8Error, int8_error, sensitivity
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import Statistics, StatisticsCache
from autotune.compression.engine import Engine
from autotune.compression.formats.quantize import initial_scale, round_trip
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.model_weights import rows_of_constant
from autotune.compression.ir.weights import find_weights
from autotune.compression.settings import DATA_METRICS, SENSITIVITY_METRICS, Settings
from autotune.errors import PlanError

ERROR = Int8Error(largest_mean_square=3e-7, norm=0.25)


def test_int8_error_is_that_of_the_per_channel_round_trip() -> None:
    """Largest mean square over rows and Frobenius norm of the whole error, however the rows are cut into blocks."""
    values = normal(37, 16)
    model = chain([values])
    (weight,) = find_weights(model)
    fmt, rows = FORMATS["int8_asym"], values[:, None, :]
    error = (round_trip(rows, *initial_scale(rows, fmt), fmt) - rows).astype(np.float64)
    for elements in (1, 100, 1 << 17):
        found = int8_error(rows_of_constant(constants(model)["W0"], weight, elements))
        assert found.largest_mean_square == pytest.approx(np.square(error).mean(axis=(1, 2)).max(), rel=1e-5)
        assert found.norm == pytest.approx(np.linalg.norm(error), rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "activation", "expected"),
    [
        ("weight_quantization_error", None, 1 / (3e-7 + 2**-23)),
        ("max_activation_variance", 2.0, 2 / (3e-7 + 2**-23)),
        ("mean_activation_variance", 2.0, 2 / (3e-7 + 2**-23)),
        ("mean_activation_magnitude", 2.0, 2 / (3e-7 + 2**-23)),
        ("hessian_input_activation", 2.0, 0.5),
    ],
)
def test_metrics_follow_their_formulas(metric: str, activation: float | None, expected: float) -> None:
    """The inverse of the int8 error times the activation's part, or error norm times it for the Hessian metric."""
    assert sensitivity(metric, ERROR, activation) == pytest.approx(expected)


@pytest.mark.parametrize("metric", DATA_METRICS)
def test_embeddings_go_to_few_bits_first(metric: str) -> None:
    """Without an activation the sensitivity is zero, as in NNCF."""
    assert sensitivity(metric, ERROR, None) == 0


@pytest.mark.parametrize("metric", SENSITIVITY_METRICS)
def test_choice_of_layers_does_not_depend_on_storage(
    llama: ov.Model, statistics: Callable[[], Statistics], metric: str
) -> None:
    """The same numbers in float16, bfloat16 and float32 files give the same layers four bits, at every ratio."""
    names = [weight.name for weight in find_weights(llama)]
    exact = cast_weights(llama, names, "bf16")  # numbers that all three storages hold
    choices = []
    for storage in ("f32", "f16", "bf16"):
        engine = Engine(cast_weights(exact, names, storage), statistics=statistics)
        plans = [
            engine.plan(
                Settings(mode="int4_sym", group_size=32, ratio=ratio, sensitivity_metric=metric, all_layers=True)
            )
            for ratio in (0.2, 0.4, 0.6, 0.8)
        ]
        choices.append([{n for n, v in plan.variants.items() if v.mode == "int4_sym"} for plan in plans])
    assert choices[0] == choices[1] == choices[2]
    assert len({frozenset(chosen) for chosen in choices[0]}) == 4


def test_statistics_do_not_depend_on_storage(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Float16 weights give the activations of the same numbers in float32, and so the same ranking."""
    weights, embedding = [normal(32, 32, seed=i) for i in range(4)], normal(20, 32)
    tokens = np.random.default_rng(0).integers(0, 20, (4, 8), dtype=np.int64)
    cache = StatisticsCache(tmp_path_factory.mktemp("s"))
    model = language_chain(weights, embedding)
    found = []
    for storage in ("f32", "f16"):
        stored = cast_weights(model, ["E", "W0", "W1", "W2", "W3", "H"], storage)
        engine = Engine(stored)
        statistics = cache.get_or_collect(stored, engine.activations, tokens, model_fingerprint=storage)
        found.append([statistics.scalar(a, metric) for a in engine.activations for metric in DATA_METRICS])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_errors_of_other_groups_are_measured_anew(tmp_path: Path) -> None:
    """The output error is of format and group size: a bank with other errors gives what an empty one does."""
    model = language_chain([normal(32, 32, seed=seed) for seed in range(4)], normal(20, 32))
    cache, tokens = StatisticsCache(tmp_path), np.arange(40, dtype=np.int64).reshape(5, 8) % 20

    def errors(bank: Bank, **change: Any) -> dict[str, float]:
        engine = Engine(
            model,
            bank=bank,
            statistics=lambda: cache.get_or_collect(model, engine.activations, tokens, model_fingerprint=""),
        )
        settings = Settings(mode="int4_sym", group_size=32, ratio=0.5, sensitivity_metric="output_error")
        return dict(engine.plan(replace(settings, **change)).sensitivity["values"])

    used = Bank()
    errors(used)
    for change in ({"group_size": 8}, {"mode": "nf4"}):
        assert errors(used, **change) == errors(Bank(), **change)


def test_data_aware_metrics_without_a_text_are_refused_before_any_work() -> None:
    """The plan fails with the reason before a single weight is looked at."""
    bank = Bank()
    engine = Engine(chain([normal(32, 32)] * 3), bank=bank)
    for metric in DATA_METRICS:
        with pytest.raises(PlanError, match="calibration text"):
            engine.plan(Settings(mode="int4_sym", group_size=32, ratio=0.5, sensitivity_metric=metric))
    assert bank.counters == {"computed": 0, "reused": 0}


def test_output_error_counts_outputs_by_their_gradients(tmp_path: Path) -> None:
    """Errors are multiplied by the mean squares of the gradients; a problem with these is a note."""
    model = language_chain([normal(32, 32, seed=seed) for seed in range(4)], normal(20, 32))
    cache, tokens = StatisticsCache(tmp_path), np.arange(40, dtype=np.int64).reshape(5, 8) % 20
    settings = Settings(mode="int4_sym", group_size=32, ratio=0.5, sensitivity_metric="output_error")

    def plan(gradients: Any) -> Any:
        engine = Engine(
            model,
            statistics=lambda: cache.get_or_collect(model, engine.activations, tokens, model_fingerprint=""),
            gradients=gradients and (lambda: gradients(engine)),
        )
        return engine.plan(settings)

    def doubled(engine: Engine) -> dict[str, Any]:
        (weight,) = [each for each in engine.weights if each.name == name]
        return {weight.uses[0].node: np.full(weight.rows, 2, np.float32)}

    def impossible(engine: Engine) -> Any:
        raise PlanError("distillation: the model has a loop; compress it without distillation")

    plain = plan(None)
    name = next(iter(plain.sensitivity["values"]))
    weighted, without = plan(doubled), plan(impossible)
    expected = {**plain.sensitivity["values"], name: 2 * plain.sensitivity["values"][name]}
    assert weighted.sensitivity["values"] == pytest.approx(expected)
    assert without.sensitivity == plain.sensitivity
    assert without.notes[-1].endswith("alike, for the model has a loop")
