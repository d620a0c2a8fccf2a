"""Scores on disk: what comes back, and what happens to a file that is not whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autotune.evaluation import Example, Measurement, Metric
from autotune.evaluation.scores import Scores
from autotune.evaluation.stores import Recorded, ScoreStore

FIRST = {"kl_divergence": Measurement(0.1 + 0.2, None, (0.1, 1 / 3), 1e-9)}
LAST = {
    "kl_divergence": Measurement(0.25, 0.01, (0.1, 1 / 3, 2e-308), 1e-9),
    "similarity": Measurement(0.9, 0.02, (), 0.0, (Example("prompt", "one", "öther", 0.5),)),
}
RECORD = Recorded([FIRST, LAST], complete=True, digest="0123")


def test_scores_come_back_to_the_last_bit(tmp_path: Path) -> None:
    """Values, texts and stages, in another store as well; another key knows nothing."""
    ScoreStore(tmp_path / "scores").put("ab", RECORD)
    store = ScoreStore(tmp_path / "scores")
    assert store.get("ab") == RECORD
    assert store.get("cd") == Recorded()
    assert store.counters["damaged"] == 0


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("kind", ["cut", "flipped"])
def test_a_damaged_file_is_not_read(tmp_path: Path, kind: str, place: int) -> None:
    """Cut short or with one bit flipped anywhere, the scores are unknown; measured again, they are whole again."""
    store = ScoreStore(tmp_path)
    store.put("ab", RECORD)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    at = len(whole) * place // 8
    file.write_bytes(whole[:at] if kind == "cut" else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert store.get("ab") == Recorded()
    assert store.counters["damaged"] == 1
    store.put("ab", RECORD)
    assert store.get("ab") == RECORD


def test_scores_stand_beside_the_original() -> None:
    """Score, original, difference with the paired error, unit, and what was scored; alone, without empty columns."""
    metrics = {"kl_divergence": Metric("minimize", "nats/token", perfect=0.0), "increase": Metric("minimize", "%")}
    measured = {"kl_divergence": Measurement(0.000462, 0.000023), "increase": Measurement(-0.066, 0.02)}
    original = {"kl_divergence": Measurement(0.0), "increase": Measurement(0.0)}
    scores = Scores(measured, original=original, metrics=metrics, scored={"perplexity": "64 windows"})
    assert [line.split("  ") for line in re.sub(" {3,}", "  ", repr(scores)).splitlines()] == [
        ["metric", "model", "original", "difference", "unit"],
        ["kl_divergence", "0.462", "0.000", "+0.462 ± 0.023", "1e-3 nats/token"],
        ["increase", "-0.066%", "0.000%", "−0.066 ± 0.020%"],
        ["perplexity: 64 windows"],
    ]
    assert repr(Scores({"x": Measurement(2.0)})).split() == ["metric", "model", "x", "2.00"]


def test_scores_are_a_mapping_and_plain_data() -> None:
    """Metric -> value and error; a missing error is None as data, NaN in the table."""
    scores = Scores({"kl": Measurement(0.5, 0.1), "fdt": Measurement(3.0)})
    assert (list(scores), len(scores), scores["kl"].stderr) == (["kl", "fdt"], 2, 0.1)
    assert scores.as_dict() == {"kl": {"value": 0.5, "stderr": 0.1}, "fdt": {"value": 3.0, "stderr": None}}
    frame = scores.to_frame()
    assert (frame.index.name, list(frame.columns), list(frame.index)) == ("metric", ["value", "stderr"], ["kl", "fdt"])
    assert frame["value"].tolist() == [0.5, 3.0]
    assert frame["stderr"].isna().tolist() == [False, True]
    assert "<table" in scores._repr_html_()
