from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import as_constant, features, language_chain, named, normal, result_model
from openvino import opset15 as ops

from autotune.common.threads import limited_to
from autotune.compression.calibration.calibrate import Depth, Precision, calibrate
from autotune.compression.calibration.statistics import Statistics, StatisticsCache, write_statistics
from autotune.compression.engine import Engine
from autotune.errors import CompressionError

Tokens = npt.NDArray[np.int64]
ARRAYS = ("second_moment", "mean", "largest")
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


def collect(
    model: ov.Model, activations: Sequence[str], tokens: Tokens, folder: Path, depth: Depth = "full", **options: Any
) -> None:
    """Run a calibration pass and write its statistics into an empty folder."""
    summaries = calibrate(model, activations, tokens, depth=depth, scratch=folder, **options)
    write_statistics(folder, summaries, tokens.size, depth)


def collected(folder: Path, model: ov.Model, tokens: Tokens, **options: Any) -> Statistics:
    """Collect statistics into a new folder."""
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
    """Mean and largest magnitude of every channel over all tokens."""
    assert statistics().tokens == 6 * 32
    for name, values in activations.items():
        x = values.reshape(-1, values.shape[-1])
        close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(x).max()}
        assert np.allclose(statistics().array(name, "mean"), x.mean(axis=0), **close)
        assert np.allclose(statistics().array(name, "largest"), np.abs(x).max(axis=0), **close)


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
    found = collected(tmp_path / "s", model, np.array([[0, 1, 1]]))
    values = [found.scalar("embed:0", metric) for metric in SCALARS]
    assert values == pytest.approx([32 / 9, 14 / 9, 7 / 3, 42 / 9])


def assert_close(found: Statistics, expected: Statistics, names: Iterable[str]) -> None:
    for name in names:
        for array in ARRAYS:
            close = {"rtol": 1e-4, "atol": 1e-4 * np.abs(expected.array(name, array)).max()}
            assert np.allclose(found.array(name, array), expected.array(name, array), **close)
        for metric in SCALARS:
            assert found.scalar(name, metric) == pytest.approx(expected.scalar(name, metric), rel=1e-4)


@pytest.mark.parametrize("limit", [1 << 20, 1])
def test_segments_give_the_same_numbers(
    llama: ov.Model,
    tokens: Tokens,
    statistics: Callable[[], Statistics],
    tmp_path: Path,
    limit: int,
) -> None:
    """A limit on the memory cuts the model into segments that run one after the other, and changes no number."""
    assert_close(collected(tmp_path / "s", llama, tokens, segment_bytes=limit), statistics(), Engine(llama).activations)


def test_batches_of_windows_give_the_same_numbers(
    llama: ov.Model,
    tokens: Tokens,
    statistics: Callable[[], Statistics],
    tmp_path: Path,
) -> None:
    """Windows in batches of four, the last batch smaller, give what one batch gives."""
    found = collected(tmp_path / "s", llama, tokens, tokens_per_batch=(4 * 32, 4 * 32))
    assert_close(found, statistics(), Engine(llama).activations)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_number_of_threads_does_not_change_a_bit(
    llama: ov.Model, tokens: Tokens, tmp_path: Path, precision: Precision
) -> None:
    """One, two or five batches at a time: their sums are the same to the last bit, in segments too."""
    limits = {"tokens_per_batch": (32, 32), "segment_bytes": 1 << 20}
    written = []
    for threads in (1, 2, 5):
        with limited_to(threads):
            collected(tmp_path / f"{threads}", llama, tokens, precision=precision, **limits)
        written.append({path.name: path.read_bytes() for path in (tmp_path / f"{threads}").iterdir()})
    assert written[0] == written[1] == written[2]


def test_diagonal_blocks_are_those_of_the_full_second_moments(tmp_path: Path) -> None:
    """The shallow depth has the same bits within its blocks and zeros outside, also where the last block is smaller."""
    width = 1100
    model = language_chain([normal(width, width)], normal(10, width))
    tokens = np.arange(40).reshape(4, 10) % 10
    full, blocks = (collected(tmp_path / d, model, tokens, depth=d) for d in ("full", "blocks"))
    expected, found = full.array("embed:0", "second_moment"), blocks.array("embed:0", "second_moment")
    block = np.arange(width) // 512
    inside = block[:, None] == block
    assert np.array_equal(found[inside], expected[inside])
    assert not found[~inside].any()
    assert np.array_equal(expected, expected.T)
    assert (tmp_path / "blocks/0000.safetensors").stat().st_size < (tmp_path / "full/0000.safetensors").stat().st_size


def test_bfloat16_is_close(
    llama: ov.Model, tokens: Tokens, statistics: Callable[[], Statistics], tmp_path: Path
) -> None:
    """The faster precision moves second moments by its rounding, and the scalars by less."""
    found = collected(tmp_path / "s", llama, tokens, precision="bf16")
    for name in Engine(llama).activations:
        expected = statistics().array(name, "second_moment")
        assert np.abs(found.array(name, "second_moment") - expected).max() < 0.02 * np.abs(expected).max()
        for metric in SCALARS:
            assert found.scalar(name, metric) == pytest.approx(statistics().scalar(name, metric), rel=0.02)


def test_progress_ends_with_all_windows(tmp_path: Path) -> None:
    """Progress counts the windows of every segment and ends at their number."""
    model = language_chain([normal(64, 64), normal(64, 64)], normal(40, 64))
    shapes: list[tuple[int, int]] = []
    collect(
        model, Engine(model).activations, np.zeros((3, 4), np.int64), tmp_path,
        progress=lambda done, total: shapes.append((done, total)), segment_bytes=1,
    )  # fmt: skip
    total = shapes[0][1]
    assert total > 3
    assert shapes == [(done, total) for done in range(3, total + 1, 3)]


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
    requests = [
        (activations, tokens, "m"),
        (activations, tokens, "n"),
        (activations, tokens + 0 * tokens[::-1] + (tokens == 0), "m"),
        (activations, tokens.reshape(5, 2), "m"),
        (activations[:1], tokens, "m"),
    ]
    keys = [cache.get_or_collect(model, a, t, model_fingerprint=f).fingerprint for a, t, f in requests]
    assert len(set(keys)) == len(requests)
    assert cache.counters == {"computed": 5, "reused": 0}


def test_a_deeper_pass_serves_the_shallower_question(tmp_path: Path) -> None:
    """Full second moments answer for their blocks; the other way round a new pass is needed."""
    model, activations, tokens = small()
    cache = StatisticsCache(tmp_path)
    requests: list[Depth] = ["blocks", "full", "blocks"]
    found = [cache.get_or_collect(model, activations, tokens, model_fingerprint="m", depth=d) for d in requests]
    assert cache.counters == {"computed": 2, "reused": 1}
    assert [statistics.depth for statistics in found] == ["blocks", "full", "full"]
    assert len({statistics.fingerprint for statistics in found}) == 1


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
    """A pass that fails leaves no file behind, and the next one starts from the beginning."""
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
    """The second process waits for the first and reads its statistics."""
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


@pytest.mark.parametrize("rank", [2, 4])
def test_activations_of_any_rank_are_seen(tmp_path: Path, rank: int) -> None:
    """Channels come last; all that comes before them are tokens."""
    table = normal(10, 8)
    model = language_chain([normal(8, 8)], table)
    embed = next(node for node in model.get_ordered_ops() if node.get_friendly_name() == "embed")
    users = embed.output(0).get_target_inputs()
    flat = named(ops.reshape(embed, np.array([-1, 8] if rank == 2 else [-1, 1, 1, 8]), False), "flat")
    back = ops.reshape(flat, np.array([2, -1, 8]), False)
    for user in users:
        user.replace_source_output(back.output(0))
    folder = tmp_path / "s"
    folder.mkdir()
    tokens = np.arange(10).reshape(2, 5)
    collect(model, ["flat:0", "embed:0"], tokens, folder)
    found = Statistics.open(folder, "")
    for array in ARRAYS:
        assert np.allclose(found.array("flat:0", array), found.array("embed:0", array), rtol=1e-5)


def test_an_activation_that_no_token_reaches_is_zero(tmp_path: Path) -> None:
    """An expert may be chosen by no token: its statistics are zeros, not an error; a seldom one counts its tokens."""
    ids = named(ops.parameter([-1, -1], np.int64, name="input_ids"), "input_ids")
    table = normal(10, 8)
    flat = ops.reshape(ids, np.array([-1]), False)
    branches = []
    for expert, chosen in (("never", 99), ("seldom", 3)):
        places = ops.reshape(ops.non_zero(ops.equal(flat, np.int64(chosen)), "i64"), np.array([-1]), False)
        rows = ops.gather(flat, places, np.int64(0))
        branches.append(named(ops.gather(as_constant(table, f"{expert}_table"), rows, np.int64(0)), expert))
    model = result_model(branches, [ids])
    folder = tmp_path / "s"
    folder.mkdir()
    collect(model, ["never:0", "seldom:0"], np.array([[1, 3, 5, 7], [3, 3, 2, 1]]), folder)
    found = Statistics.open(folder, "")
    for array in ARRAYS:
        assert not found.array("never:0", array).any()
    expected = 3 / 8 * np.outer(table[3], table[3])
    assert np.allclose(found.array("seldom:0", "second_moment"), expected, rtol=1e-5, atol=1e-6)
    assert np.allclose(found.array("seldom:0", "mean"), table[3], rtol=1e-5)


def test_activations_without_a_known_width_are_refused(tmp_path: Path) -> None:
    """An activation whose channels are not known beforehand is named, with its shape."""
    ids = named(ops.parameter([-1, -1], np.int64, name="input_ids"), "input_ids")
    flat = named(ops.convert(ids, np.float32), "flat")
    model = result_model([flat], [ids])
    with pytest.raises(CompressionError, match=r"flat:0 has shape \[\?,\?\]"):
        collect(model, ["flat:0"], np.zeros((1, 2), np.int64), tmp_path)


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """NaN and infinity in an activation are an error that names it, never numbers in the cache."""
    embedding = normal(4, 8)
    embedding[2, 3] = np.inf
    model = language_chain([normal(8, 8)], embedding)
    with pytest.raises(CompressionError, match="embed:0 is not finite"):
        collect(model, ["embed:0"], np.array([[0, 1, 2, 3]]), tmp_path)
