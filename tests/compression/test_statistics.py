from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import as_constant, features, language_chain, named, normal, result_model
from openvino import opset15 as ops

from autotune.compression import statistics as module
from autotune.compression.engine import Engine
from autotune.compression.statistics import Statistics, StatisticsCache, collect
from autotune.errors import CompressionError

Tokens = npt.NDArray[np.int64]
ARRAYS = ("second_moment", "mean", "mean_magnitude", "largest", "tokens")
SCALARS = (
    "max_activation_variance",
    "mean_activation_variance",
    "mean_activation_magnitude",
    "hessian_input_activation",
)


@pytest.fixture(scope="module")
def activations(llama: ov.Model, tokens: Tokens) -> dict[str, npt.NDArray[np.float64]]:
    """Every activation [n, T, K] of the tiny Llama, from a plain run of the model with a Result at each."""
    copy = llama.clone()
    nodes = {node.get_friendly_name(): node for node in copy.get_ordered_ops()}
    names = Engine(llama).activations
    copy.add_results([ops.result(nodes[name.rpartition(":")[0]].output(0)) for name in names])
    compiled = ov.Core().compile_model(copy, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"})
    count, length = tokens.shape
    found = compiled(
        {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "position_ids": np.tile(np.arange(length), (count, 1)),
            "beam_idx": np.arange(count, dtype=np.int32),
        }
    )
    return {name: np.array(found[i + 1], np.float64) for i, name in enumerate(names)}


def opened(folder: Path, model: ov.Model, tokens: Tokens, **options: int) -> Statistics:
    """Statistics collected anew into a folder."""
    folder.mkdir()
    collect(model, Engine(model).activations, tokens, folder, **options)
    return Statistics.open(folder, "")


def test_second_moments_are_those_of_the_activations(
    statistics: Callable[[], Statistics], activations: dict[str, npt.NDArray[np.float64]]
) -> None:
    """XᵀX over all tokens, divided by their number, of what flows through the unchanged model."""
    assert len(activations) == 9
    for name, values in activations.items():
        x = values.reshape(-1, values.shape[-1])
        expected = x.T @ x / len(x)
        found = statistics().array(name, "second_moment")
        assert found.dtype == np.float32
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_channel_numbers_are_those_of_the_activations(
    statistics: Callable[[], Statistics], activations: dict[str, npt.NDArray[np.float64]]
) -> None:
    """Mean, mean magnitude and largest magnitude of every channel over all tokens."""
    assert statistics().tokens == 6 * 32
    for name, values in activations.items():
        x = values.reshape(-1, values.shape[-1])
        close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(x).max()}
        assert np.allclose(statistics().array(name, "mean"), x.mean(axis=0), **close)
        assert np.allclose(statistics().array(name, "mean_magnitude"), np.abs(x).mean(axis=0), **close)
        assert np.allclose(statistics().array(name, "largest"), np.abs(x).max(axis=0), **close)


def test_sampled_tokens_are_tokens_of_every_window(
    statistics: Callable[[], Statistics], activations: dict[str, npt.NDArray[np.float64]]
) -> None:
    """The sample holds rows of the activation, as many from each window, and never a window's first token."""
    for name, values in activations.items():
        sample = statistics().array(name, "tokens")
        windows = sample.reshape(len(values), -1, values.shape[-1])
        for window, rows in zip(values, windows, strict=True):
            distances = np.abs(rows[:, None, :] - window[None]).max(axis=-1)
            assert np.all(distances.min(axis=1) < 1e-4 * np.abs(window).max())
            assert 0 not in distances.argmin(axis=1)


def test_scalars_follow_their_formulas(
    statistics: Callable[[], Statistics], activations: dict[str, npt.NDArray[np.float64]]
) -> None:
    """Variances, magnitudes and twice the mean square, a window each, averaged over the windows as in NNCF."""
    for name, x in activations.items():
        variance = x.var(axis=1)
        expected = (
            variance.max(axis=1).mean(),
            variance.mean(axis=1).mean(),
            np.abs(x).max(axis=1).mean(),
            2 * np.square(x).sum(axis=(1, 2)).mean() / x[0].size,
        )
        for metric, value in zip(SCALARS, expected, strict=True):
            assert statistics().scalar(name, metric) == pytest.approx(value, rel=1e-4)


def test_scalars_of_a_worked_example(tmp_path: Path) -> None:
    """For x = [[-4, 1, 2], [0, 0, 0], [0, 0, 0]] the four numbers are 32/9, 14/9, 7/3 and 42/9 by hand."""
    model = language_chain([normal(3, 3)], np.array([[-4, 1, 2], [0, 0, 0]], np.float32))
    found = opened(tmp_path / "s", model, np.array([[0, 1, 1]]))
    values = [found.scalar("embed:0", metric) for metric in SCALARS]
    assert values == pytest.approx([32 / 9, 14 / 9, 7 / 3, 42 / 9])


@pytest.mark.parametrize("limit", [2 * 8 * 128 * 128, 1])
def test_several_passes_give_the_same_numbers(
    llama: ov.Model, tokens: Tokens, statistics: Callable[[], Statistics], tmp_path: Path, limit: int
) -> None:
    """A memory limit cuts the layers into parts that fit, in their order, one pass each, and changes no number."""
    activations = Engine(llama).activations
    parts = module._parts(llama, activations, limit)
    assert 1 < len(parts) <= len(activations)
    assert [name for part in parts for name in part] == [
        n for p in module._parts(llama, activations, 1 << 40) for n in p
    ]
    assert all(len(part) == 1 or sum(8 * width**2 for width in part.values()) <= limit for part in parts)
    found = opened(tmp_path / "s", llama, tokens, memory_limit=limit)
    for name in activations:
        for array in ARRAYS:
            assert np.allclose(found.array(name, array), statistics().array(name, array), rtol=1e-5, atol=1e-5)


def test_a_pass_is_only_as_deep_as_its_part(llama: ov.Model) -> None:
    """What lies above the last activation that is looked at is not in the model that is run, states included."""
    activations = list(module._parts(llama, Engine(llama).activations, 1 << 40)[0])
    depths = []
    for name in (activations[0], activations[1], activations[-1]):
        reduced = module._with_reductions(llama, [name], np.array([1]))
        depths.append((len(reduced.get_ordered_ops()), len(reduced.get_sinks())))
    assert depths[0][0] < depths[1][0] < depths[2][0]
    assert [sinks for _, sinks in depths] == [0, 2, 4]


def test_batches_of_windows_give_the_same_numbers(
    llama: ov.Model,
    tokens: Tokens,
    statistics: Callable[[], Statistics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows in batches of four, the last batch smaller, give what one batch gives."""
    monkeypatch.setattr(module, "TOKENS_PER_INFERENCE", 4 * 32)
    found = opened(tmp_path / "s", llama, tokens)
    for name in Engine(llama).activations:
        for array in ARRAYS:
            close = {"rtol": 1e-4, "atol": 1e-4 * np.abs(statistics().array(name, array)).max()}
            assert np.allclose(found.array(name, array), statistics().array(name, array), **close)
        for metric in SCALARS:
            assert found.scalar(name, metric) == pytest.approx(statistics().scalar(name, metric), rel=1e-5)


def test_progress_ends_with_all_windows(tmp_path: Path) -> None:
    """Progress counts the windows of every pass and ends at their number."""
    model = language_chain([normal(16, 16)], normal(10, 16))
    seen: list[tuple[int, int]] = []
    collect(
        model, Engine(model).activations, np.zeros((3, 4), np.int64), tmp_path, memory_limit=1,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(3, 6), (6, 6)]


def small() -> tuple[ov.Model, tuple[str, ...], Tokens]:
    model = language_chain([normal(16, 16)], normal(10, 16))
    return model, Engine(model).activations, np.arange(10).reshape(2, 5)


def test_cache_collects_once(tmp_path: Path) -> None:
    """The same question is answered from disk, by the same cache and by another one over the same folder."""
    model, activations, tokens = small()
    cache = StatisticsCache(tmp_path)
    first = cache.get_or_collect(model, activations, tokens, model_fingerprint="m")
    cache.get_or_collect(model, activations, tokens, model_fingerprint="m")
    assert cache.counters == {"computed": 1, "reused": 1}
    other = StatisticsCache(tmp_path)
    again = other.get_or_collect(model, activations[::-1], tokens, model_fingerprint="m")
    assert other.counters == {"computed": 0, "reused": 1}
    assert again.fingerprint == first.fingerprint
    assert activations[0] in again


def test_cache_asks_again_for_another_model_other_tokens_or_activations(tmp_path: Path) -> None:
    """Whatever the numbers depend on is in the key."""
    model, activations, tokens = small()
    cache = StatisticsCache(tmp_path)
    asked = [
        (activations, tokens, "m"),
        (activations, tokens, "n"),
        (activations, tokens + 0 * tokens[::-1] + (tokens == 0), "m"),
        (activations, tokens.reshape(5, 2), "m"),
        (activations[:1], tokens, "m"),
    ]
    keys = [cache.get_or_collect(model, a, t, model_fingerprint=f).fingerprint for a, t, f in asked]
    assert len(set(keys)) == len(asked)
    assert cache.counters == {"computed": 5, "reused": 0}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def change_a_digit(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("0.", "9.", 1))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("0001.safetensors", flip_a_byte),
        ("0001.safetensors", cut_short),
        ("0001.safetensors", Path.unlink),
        ("index.json", change_a_digit),
        ("index.json", cut_short),
        ("index.json", Path.unlink),
    ],
)
def test_damaged_statistics_are_collected_again(tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    """A changed byte, a file cut short or missing is noticed, and the numbers are those of before."""
    model, activations, tokens = small()
    before = StatisticsCache(tmp_path).get_or_collect(model, activations, tokens, model_fingerprint="m")
    moment, index = before.array(activations[1], "second_moment"), (before.folder / "index.json").read_text()
    damage(before.folder / file)
    cache = StatisticsCache(tmp_path)
    after = cache.get_or_collect(model, activations, tokens, model_fingerprint="m")
    assert cache.counters == {"computed": 1, "reused": 0}
    assert np.array_equal(after.array(activations[1], "second_moment"), moment)
    assert (after.folder / "index.json").read_text() == index


def test_half_written_statistics_are_never_seen(tmp_path: Path) -> None:
    """A pass that dies leaves nothing behind, and the next one starts anew."""
    model, activations, tokens = small()
    cache = StatisticsCache(tmp_path)

    def dies(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_collect(model, activations, tokens, model_fingerprint="m", progress=dies)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    cache.get_or_collect(model, activations, tokens, model_fingerprint="m")
    assert cache.counters["computed"] == 1


def test_threads_that_ask_at_once_collect_once(tmp_path: Path) -> None:
    """Whoever comes second waits for the first and reads what it wrote."""
    model, activations, tokens = small()
    caches = [StatisticsCache(tmp_path) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda c=c: c.get_or_collect(model, activations, tokens, model_fingerprint="m"))
        for c in caches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(c.counters["computed"] for c in caches) == [0, 0, 1]


def test_the_model_is_not_changed(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """The reductions are built into a copy: the model keeps its single output and its operations."""
    statistics()
    assert len(llama.outputs) == 1
    assert not any(node.get_type_name() == "ReduceMax" for node in llama.get_ordered_ops())


def test_unknown_inputs_are_refused(tmp_path: Path) -> None:
    """A model that needs more than text says which input cannot be filled."""
    x = features(8)
    model = result_model([ops.matmul(x, as_constant(normal(4, 8), "W"), False, True)], [x])
    with pytest.raises(CompressionError, match="input named x"):
        collect(model, ["x:0"], np.zeros((1, 2), np.int64), tmp_path)


def test_activations_of_another_rank_are_refused(tmp_path: Path) -> None:
    """An activation that is not [B, T, K] is named, with its shape."""
    ids = named(ops.parameter([-1, -1], np.int64, name="input_ids"), "input_ids")
    flat = named(ops.convert(ids, np.float32), "flat")
    model = result_model([ops.matmul(flat, as_constant(normal(4, 2), "W"), False, True)], [ids])
    with pytest.raises(CompressionError, match=r"flat:0 has shape \[\?,\?\]"):
        collect(model, ["flat:0"], np.zeros((1, 2), np.int64), tmp_path)


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """NaN and infinity in an activation are an error that names it, never numbers in the cache."""
    embedding = normal(4, 8)
    embedding[2, 3] = np.inf
    model = language_chain([normal(8, 8)], embedding)
    with pytest.raises(CompressionError, match="embed:0 is not finite"):
        collect(model, ["embed:0"], np.array([[0, 1, 2, 3]]), tmp_path)
