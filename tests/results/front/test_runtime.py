"""Runtime settings of a model: the one to use, and the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.common.units import Constraint
from autotune.evaluation import Measurement
from autotune.models.runtime.kv_cache import KVCache
from autotune.reporting.html.page import report_html
from autotune.reporting.report import build_report
from autotune.reporting.text.markdown import report_markdown
from autotune.reporting.text.runtime import runtime_csv, runtime_markdown
from autotune.results.front.runtime import read_runtime, recommended_setting
from autotune.results.load import results_of
from autotune.results.records import RuntimeScores, RuntimeSearch, StudyResults


@pytest.fixture(scope="module")
def results(fake: Any) -> StudyResults:
    """A study of KL divergence and size, whose original has the divergence 0."""
    return results_of(fake.build(trials=6))


def scored(error: float, cache_bytes: int, speed: float | None = 10.0) -> RuntimeScores:
    """A model with one setting."""
    return RuntimeScores({"KV_CACHE_PRECISION": "u8"}, {"kl_divergence": Measurement(error)}, cache_bytes, 0.5, speed)


def searched(results: StudyResults, entries: list[RuntimeScores], **limits: Constraint) -> StudyResults:
    """The study with these settings of its first front model."""
    search = RuntimeSearch([{"KV_CACHE_PRECISION": "u8"}] * len(entries), {results.front[0]: entries}, ())
    return replace(results, runtime=search, constraints=limits)


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([100, 200, 400]), st.sampled_from([1.0, 2.0])),
        min_size=1,
        max_size=9,
    )
)
def test_the_recommended_setting_is_accurate_small_and_fast(
    results: StudyResults, entries: list[tuple[int, int, float]]
) -> None:
    """No setting within a tenth of the least error has a smaller cache, or the same one and more speed."""
    study = searched(results, [scored(error / 100, cache, speed) for error, cache, speed in entries])
    chosen = recommended_setting(study, results.front[0])
    assert chosen is not None
    near = [each for each in entries if each[0] <= 1.1 * min(each[0] for each in entries) + 1e-9]
    assert entries[chosen] in near
    assert entries[chosen][1:] == min(((each[1], each[2]) for each in near), key=lambda each: (each[0], -each[1]))


def test_a_setting_that_breaks_a_limit_or_cannot_run_is_not_recommended(results: StudyResults) -> None:
    """If all break it, the limit is ignored; a trial without scores has no setting."""
    trial, entries = results.front[0], [scored(0.105, 100), RuntimeScores(error="no such arithmetic"), scored(0.1, 400)]
    assert recommended_setting(searched(results, entries), trial) == 0
    limit = Constraint("<=", 0.102, "<= 0.102")
    assert recommended_setting(searched(results, entries, kl_divergence=limit), trial) == 2
    assert recommended_setting(searched(results, entries[:2], kl_divergence=limit), trial) == 0
    assert recommended_setting(searched(results, entries[1:2]), trial) is None
    assert recommended_setting(searched(results, entries), results.front[-1]) is None


def test_stored_settings_are_read_back_and_shown(results: StudyResults) -> None:
    """Also before their speed is measured, and with one that cannot run."""
    properties = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "u4", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    entry = {"metrics": {"kl_divergence": {"value": 0.25, "stderr": 0.5}}, "properties": properties, "cache_bytes": 72}
    stored = {"settings": [entry, {"error": {"message": "bf16 was requested"}}]}
    trial = str(results.front[0])

    def read(**more: Any) -> StudyResults:
        def scores(data: Any) -> dict[str, Measurement]:
            return {name: Measurement(**each) for name, each in data.items()}

        attribute = {"settings": [{}, {}], "trials": {trial: {**stored, **more}, "99": {"error": {}}}, "cpu": []}
        return replace(results, runtime=read_runtime(attribute, scores))

    found = read().runtime
    assert found is not None
    assert found.trials[int(trial)][0].tokens_per_second is None
    timed = read(times=[{"first_token": 0.5, "tokens_per_second": 20.0}, None])
    text = runtime_markdown(timed)
    assert text is not None
    assert "neither VNNI nor AMX" in text
    assert "setting 1: bf16 was requested" in text
    row = next(line for line in text.splitlines() if "★ |" in line)
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["f32", "u4", "0"]
    report = build_report(timed)
    assert report.runtime is not None
    assert [row[0] for row in report.runtime.rows] == [trial]
    assert 'id="runtime"' in report_html(timed, report)
    assert "## Runtime settings" in report_markdown(report)
    csv = runtime_csv(timed)
    assert csv is not None
    assert csv.splitlines()[1].startswith(f"{trial},0,True,f32,u4,0,0.25,0.5,72")
    assert runtime_csv(results) is None
    assert runtime_markdown(results) is None
    assert build_report(results).runtime is None


@pytest.mark.parametrize(("precision", "bytes_"), [("f32", 2048), ("f16", 1024), ("u8", 576), ("u4", 320)])
def test_bytes_of_a_token_count_scales_of_quantized_heads(precision: str, bytes_: int) -> None:
    """Keys and values of 4 heads of 64: numbers, and for few bits a scale and a zero point for each head."""
    assert KVCache(((4, 64), (4, 64)), recurrent=False).token_bytes(precision) == bytes_
