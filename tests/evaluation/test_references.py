"""References on disk: computed once, read-only, verified, computed again when damaged."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from autotune.evaluation import Reference
from autotune.evaluation.stores import ReferenceStore, reference_key
from evaluators.perplexity import Perplexity


def _arrays() -> Reference:
    return {
        "logits": np.arange(60, dtype=np.float32).reshape(3, 4, 5),
        "tokens": np.array([[1, 2], [3, 4]], np.int64),
        "ids": np.array([7, -8, 9], np.int32),
        "means": np.array([0.1, 0.2]),
        "bytes": np.array([1, 2, 3], np.uint8),
        "flags": np.array([True, False]),
        "nothing": np.zeros((0, 4), np.float32),
    }


def _never() -> Reference:
    raise AssertionError("the reference was computed again")


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    """Values, shapes and dtypes survive the disk, in this process and the next; what comes back is read-only."""
    created, now = ReferenceStore(tmp_path).get_or_create("key", _arrays)
    found, later = ReferenceStore(tmp_path).get_or_create("key", _never)
    assert (now, later) == (True, False)
    for reference in (created, found):
        assert set(reference) == set(_arrays())
        for name, expected in _arrays().items():
            np.testing.assert_array_equal(reference[name], expected)
            assert reference[name].dtype == expected.dtype
            assert not reference[name].flags.writeable


def test_arrays_that_are_not_contiguous_are_kept_rightly(tmp_path: Path) -> None:
    """A transposed array comes back transposed."""
    array = np.arange(6, dtype=np.int64).reshape(2, 3).T
    found, _ = ReferenceStore(tmp_path).get_or_create("key", lambda: {"a": array})
    np.testing.assert_array_equal(found["a"], array)


def test_keys_do_not_meet(tmp_path: Path) -> None:
    """Another key is another reference."""
    store = ReferenceStore(tmp_path)
    store.get_or_create("one", lambda: {"a": np.array([1])})
    two, created = store.get_or_create("two", lambda: {"a": np.array([2])})
    assert created
    assert two["a"].tolist() == [2]


@pytest.mark.parametrize("where", [0, 3, 40, -1, -200], ids=str)
def test_a_changed_byte_is_noticed(tmp_path: Path, where: int) -> None:
    """A file with one wrong byte, in length, header or data, is computed again and counted."""
    ReferenceStore(tmp_path).get_or_create("key", _arrays)
    file = tmp_path / "key.safetensors"
    data = bytearray(file.read_bytes())
    data[where] ^= 0x41
    file.write_bytes(data)
    store = ReferenceStore(tmp_path)
    reference, created = store.get_or_create("key", _arrays)
    assert created
    assert store.counters == {"created": 1, "reused": 0, "damaged": 1}
    np.testing.assert_array_equal(reference["logits"], _arrays()["logits"])
    assert not ReferenceStore(tmp_path).get_or_create("key", _never)[1]


@pytest.mark.parametrize("kept", [0, 4, 100, 0.9], ids=str)
def test_a_short_file_is_noticed(tmp_path: Path, kept: float) -> None:
    """A file that is cut off anywhere is computed again."""
    ReferenceStore(tmp_path).get_or_create("key", _arrays)
    file = tmp_path / "key.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    assert ReferenceStore(tmp_path).get_or_create("key", _arrays)[1]


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    """If the computation of a reference fails, no file appears, and the next attempt starts again."""
    store = ReferenceStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.get_or_create("key", lambda: {"a": np.array([1 // 0])})
    assert not list(tmp_path.glob("*.safetensors"))
    assert store.get_or_create("key", _arrays)[1]


def _ask(folder: Path, log: Path) -> None:
    def create() -> Reference:
        with log.open("a") as stream:
            stream.write("created\n")
        return _arrays()

    ReferenceStore(folder).get_or_create("key", create)


def test_processes_that_ask_at_once_compute_once(tmp_path: Path) -> None:
    """However many processes want a reference, one computes it."""
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [context.Process(target=_ask, args=(tmp_path / "store", log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert log.read_text() == "created\n"


def test_the_key_changes_with_all_that_matters(tmp_path: Path) -> None:
    """Evaluator, options, texts, model, tokenizer and runtime properties are in the key; the same gives the same."""
    text = tmp_path / "text.txt"
    text.write_text("some words")
    same = {"model_fingerprint": "m", "tokenizer_fingerprint": "t", "ov_config": {"A": 1}}

    def key(name: str = "perplexity", sequence_length: int = 4, **changed: object) -> str:
        evaluator = Perplexity(path=text, sequence_length=sequence_length)
        return reference_key(name, evaluator, **{**same, **changed})  # type: ignore[arg-type]

    keys = [
        key(),
        key(name="other"),
        key(sequence_length=5),
        key(model_fingerprint="x"),
        key(tokenizer_fingerprint="x"),
        key(ov_config={"A": 2}),
    ]
    assert key() == keys[0]
    text.write_text("other words")
    keys.append(key())
    assert len(set(keys)) == len(keys)
