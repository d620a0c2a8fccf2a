"""Whole searches with a made-up engine: resume, duplicates, limits, failures, locks."""

from __future__ import annotations

import errno
import gc
import json
import math
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_fakes import (
    LARGE,
    SMALL,
    FakeConfig,
    FakeEngine,
    FakeSession,
    Recorder,
    StudyOptions,
    score,
    search,
    space,
    undisturbed,
)
from stored import current_trials, trials_of

from autotune.common.units import parse_constraint
from autotune.compression.settings import Settings
from autotune.errors import ConfigError, StudyError, UsageError
from autotune.evaluation import Measurement
from autotune.results.front.pareto import hypervolume
from autotune.study.loop import FEW_OBJECTS, imports_frozen
from autotune.study.storage.database import close, connect, database_url
from autotune.study.storage.history import History, is_interrupted, point_key


def study_attrs(folder: Path) -> dict[str, Any]:
    """The study's own attributes."""
    import optuna

    storage = connect(database_url(folder / "study.db"))
    try:
        return dict(optuna.load_study(study_name="autotune", storage=storage).user_attrs)
    finally:
        close(storage)


def test_a_study_writes_what_its_schema_says(tmp_path: Path) -> None:
    """Study and trials carry the attributes that reports read, and plan files lie where trials say."""
    outcome = search(FakeConfig(tmp_path / "study", study=StudyOptions(trials=8)))
    assert (outcome.reason, outcome.finished, outcome.ran, outcome.failed) == ("trials", 8, 8, 0)
    attrs = study_attrs(outcome.folder)
    assert attrs["schema_version"] == 1
    assert attrs["objectives"] == {"kl_divergence": "minimize", "footprint": "minimize"}
    assert attrs["original"]["footprint"] == 16_000_000
    assert {"kl_divergence", "footprint", "relative_error"} <= set(attrs["metrics"])
    assert (outcome.folder / "model.yaml").is_file()
    for trial in trials_of(outcome.folder):
        own = trial.user_attrs
        assert own["settings"]["mode"]
        assert own["origin"].startswith(("enqueued: ", "sampled"))
        assert json.loads((outcome.folder / own["plan_file"]).read_text())["key"] == own["plan"]
        assert own["metrics"]["kl_divergence"]["value"] == trial.values[0]
        assert trial.values[1] == own["footprint"]
        assert own["metrics"]["relative_error"]["value"] == pytest.approx(
            100 * abs(own["metrics"]["perplexity"]["value"] - 40) / 40
        )
        assert own["seconds_compress"] >= 0
        assert own["variants_computed"] == 1


@pytest.mark.parametrize("trials", [5, 12], ids=["all trials", "space exhausted"])
@pytest.mark.parametrize("report", [None, "texts"])
def test_a_finished_study_needs_no_worker(tmp_path: Path, trials: int, report: str | None) -> None:
    """Run again, it opens no session; with more trials, another report text or an unscored front it does."""

    class SessionOpened(Exception):
        pass

    def refuse(config: Any, stage: Any) -> Any:
        raise SessionOpened

    few = space(mode=["int4_asym", "int4_sym"], group_size=[32, 64, 128], ratio=1.0)
    config = FakeConfig(tmp_path, space=few, study=StudyOptions(trials=trials))
    first = search(config, FakeSession(report=report))
    again = search(config, open_session=refuse)
    assert (again.reason, again.finished, again.ran) == (first.reason, first.finished, 0)
    with pytest.raises(SessionOpened):
        search(replace(config, model="another"), open_session=refuse)
    if trials == 5:
        with pytest.raises(SessionOpened):
            search(replace(config, study=StudyOptions(trials=6)), open_session=refuse)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_continued_study_equals_one_that_never_stopped(tmp_path: Path, sampler: str) -> None:
    """Stopped after any number of trials, the study goes on trial by trial as if it had not been stopped."""
    parts = FakeConfig(tmp_path / "parts", study=StudyOptions(trials=16, sampler=sampler))
    for trials in (1, 11, 12, 16):
        assert search(parts, trials=trials).finished == trials
    assert current_trials(parts.output) == undisturbed(trials=16, sampler=sampler)


def test_collections_after_trials_skip_what_was_imported() -> None:
    """All objects are frozen meanwhile, except in a process that has frozen its own, as this one has."""
    mark: list[int] = []

    def is_collected() -> bool:
        return any(each is mark for each in gc.get_objects())

    assert gc.get_freeze_count() > FEW_OBJECTS
    with imports_frozen():
        assert is_collected()
    gc.unfreeze()
    try:
        with imports_frozen():
            assert not is_collected()
        assert is_collected()
    finally:
        gc.freeze()


def test_another_seed_is_another_study(tmp_path: Path) -> None:
    """After the enqueued points, the seed decides."""
    for seed in (0, 1):
        search(FakeConfig(tmp_path / str(seed), study=StudyOptions(trials=14, seed=seed)))
    first, second = current_trials(tmp_path / "0"), current_trials(tmp_path / "1")
    assert [params for params, *_ in first] != [params for params, *_ in second]
    assert first[0] == second[0]


def test_a_finished_study_does_nothing_more(tmp_path: Path) -> None:
    """Running the same command on a finished study evaluates nothing."""
    config = FakeConfig(tmp_path / "study")
    search(config)
    again = FakeSession()
    assert search(config, again).ran == 0
    assert not again.engine.applied


def test_no_plan_is_evaluated_twice(tmp_path: Path) -> None:
    """Points with one plan share one evaluation; the copy has its values and does not count."""
    two_names = space(mode=["int4_asym", "nf4"], group_size=[32, 64], backup_mode=["int8_asym", "int8_sym"])
    config = FakeConfig(tmp_path / "study", space=two_names)
    session = FakeSession()
    outcome = search(config, session)
    trials = trials_of(config.output)
    copies = [trial for trial in trials if "duplicate_of" in trial.user_attrs]
    plans = Counter(trial.user_attrs["plan"] for trial in trials if trial not in copies)
    assert max(plans.values()) == 1
    assert len(session.engine.applied) == outcome.finished == 4
    assert outcome.duplicates == len(copies) == 4
    for copy in copies:
        original = trials[copy.user_attrs["duplicate_of"]]
        assert (copy.values, copy.user_attrs["metrics"]) == (original.values, original.user_attrs["metrics"])
        assert "seconds_compress" not in copy.user_attrs


def test_a_space_no_larger_than_the_budget_is_tried_in_full_and_ends(tmp_path: Path) -> None:
    """Every point once, then the search says that the space is exhausted."""
    listener = Recorder()
    outcome = search(FakeConfig(tmp_path / "study", space=SMALL, study=StudyOptions(trials=50)), listener=listener)
    points = SMALL.enumerate(100)
    assert points is not None
    assert (outcome.reason, outcome.finished + outcome.duplicates) == ("exhausted", len(points))
    assert "exhausted" in listener.message
    tried = [SMALL.settings(point).as_dict() for point in points]
    assert sorted(map(str, tried)) == sorted(str(t.user_attrs["settings"]) for t in trials_of(outcome.folder))


def test_a_sampler_that_repeats_itself_is_helped_on(tmp_path: Path) -> None:
    """A budget just under the space's size is reached, by unseen points where the sampler repeats seen ones."""
    points = SMALL.enumerate(100)
    assert points is not None
    config = FakeConfig(tmp_path / "study", space=SMALL, study=StudyOptions(trials=len(points) - 1))
    outcome = search(config)
    assert (outcome.reason, outcome.finished, outcome.duplicates) == ("trials", len(points) - 1, 0)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_no_point_is_tried_twice(tmp_path: Path, sampler: str) -> None:
    """A sampler is asked again, in memory, until it comes up with something new."""
    config = FakeConfig(tmp_path / "study", space=SMALL, study=StudyOptions(trials=8, sampler=sampler))
    search(config)
    keys = [point_key(params) for params, *_ in current_trials(config.output)]
    assert len(set(keys)) == len(keys) == 8


def test_the_sampler_learns(tmp_path: Path) -> None:
    """On a smooth made-up model, tpe's front dominates more than that of random points, with the same trials."""

    def dominated(sampler: str, seed: int) -> float:
        listener = Recorder()
        study = StudyOptions(trials=32, sampler=sampler, seed=seed)
        search(FakeConfig(tmp_path / f"{sampler}{seed}", study=study), listener=listener)
        costs = [[math.log(row.values["kl_divergence"]), row.values["footprint"] / 1e6] for row in listener.rows]
        return hypervolume(np.array(costs), np.array([math.log(0.03), 9.0]))

    assert dominated("tpe", 0) > dominated("random", 0)


def test_a_space_that_cannot_be_listed_also_ends(tmp_path: Path) -> None:
    """A continuous range with one plan for all of it stops after a bounded number of repeats."""
    config = FakeConfig(tmp_path / "study", space=space(mode="int4_asym", ratio=(0.6, 0.9, None)))
    session = FakeSession()
    session.engine.plan = lambda settings: FakeEngine().plan(replace(settings, ratio=0.7))  # type: ignore[method-assign]
    outcome = search(config, session)
    assert (outcome.reason, outcome.finished) == ("exhausted", 1)


def test_a_grid_goes_through_the_space_in_order_and_needs_steps(tmp_path: Path) -> None:
    """After the enqueued points come the unseen ones in order; a continuous range is refused."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=25, sampler="grid"))
    search(config)
    listed = [
        params for params, *_, origin in current_trials(config.output) if origin == "enqueued: every point of the space"
    ]
    modes = [params["mode"] for params in listed]
    assert modes == sorted(modes, key=LARGE.parameters["mode"].values.index)  # type: ignore[union-attr]
    config = FakeConfig(
        tmp_path / "other", space=space(mode="nf4", ratio=(0.5, 1.0, None)), study=StudyOptions(sampler="grid")
    )
    with pytest.raises(ConfigError, match="step"):
        search(config)


def test_a_trial_over_the_footprint_limit_never_starts(tmp_path: Path) -> None:
    """It is PRUNED with its constraint recorded, before anything is compressed."""
    config = FakeConfig(
        tmp_path / "study",
        constraints={"footprint": parse_constraint("<= 5 MB", unit="bytes")},
        study=StudyOptions(trials=20),
    )
    session = FakeSession()
    search(config, session)
    trials = trials_of(config.output)
    pruned = [trial for trial in trials if trial.state.name == "PRUNED" and "duplicate_of" not in trial.user_attrs]
    assert pruned
    for trial in pruned:
        assert trial.constraints["footprint"] == trial.user_attrs["footprint"] - 5_000_000 > 0
    done = [trial for trial in History(trials).finished if trial.state.name == "COMPLETE"]
    assert len(session.engine.applied) == len(done) == 20 - len(pruned)
    assert all(trial.constraints["footprint"] <= 0 for trial in done)


def test_a_broken_quality_limit_keeps_the_trial_but_not_on_the_front(tmp_path: Path) -> None:
    """Scores stay, the constraint says by how much, and no such trial is shown on the front."""
    listener = Recorder()
    limits = {"kl_divergence": parse_constraint("<= 0.004"), "perplexity": parse_constraint(">= 1")}
    search(FakeConfig(tmp_path / "study", constraints=limits), listener=listener)
    broken = [row for row in listener.rows if row.state == "complete" and row.values["kl_divergence"] > 0.004]
    assert broken
    assert not any(row.on_front or row.feasible for row in broken)


def failing(kind: str) -> FakeSession:
    """Trials with group size 32 go wrong."""

    def scorer(settings: Settings) -> dict[str, Any]:
        if settings.group_size == 32:
            if kind == "raise":
                raise RuntimeError("out of memory in a kernel")
            if kind == "nan":
                return {**score(settings), "kl_divergence": Measurement(float("nan"))}
            return {"perplexity": Measurement(40.0)}
        return score(settings)

    return FakeSession(scorer=scorer)


@pytest.mark.parametrize(
    ("kind", "message"), [("raise", "out of memory"), ("nan", "finite"), ("missing", "kl_divergence")]
)
def test_a_failed_trial_is_recorded_and_the_study_goes_on(tmp_path: Path, kind: str, message: str) -> None:
    """FAIL with type, message and traceback; the other trials finish; the same plan is not tried again."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=25))
    session = failing(kind)
    outcome = search(config, session)
    failed = [trial for trial in trials_of(config.output) if trial.state.name == "FAIL"]
    assert outcome.finished == 25
    assert outcome.failed
    for trial in failed:
        assert message in trial.user_attrs["error"]["message"]
        assert "Traceback" in trial.user_attrs["error"]["traceback"]
    assert len({FakeEngine().plan(s).key for s in session.engine.applied}) == len(session.engine.applied)


def test_a_wrong_setup_stops_the_search_instead_of_failing_every_trial(tmp_path: Path) -> None:
    """A ConfigError inside a trial passes through; after the repair that trial is done."""
    config = FakeConfig(tmp_path / "study")
    broken = FakeSession(
        scorer=lambda settings: (_ for _ in ()).throw(ConfigError("the calibration text is too short"))
    )
    with pytest.raises(ConfigError, match="too short"):
        search(config, broken)
    outcome = search(config)
    assert (outcome.finished, outcome.failed) == (12, 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_the_search_and_loses_nothing(tmp_path: Path, number: int) -> None:
    """No trial is failed for want of room; after the repair the study is the undisturbed one."""
    config = FakeConfig(tmp_path / "study")
    session = FakeSession()

    def apply(plan: Any) -> Settings:
        if len(session.engine.applied) == 3:
            raise OSError(number, "No space left on device")
        return FakeEngine.apply(session.engine, plan)

    session.engine.apply = apply  # type: ignore[method-assign]
    with pytest.raises(StudyError, match="No space left"):
        search(config, session)
    assert search(config).failed == 0
    assert current_trials(config.output) == undisturbed(trials=config.study.trials)


def test_a_storage_that_fails_is_told_with_what_to_do(tmp_path: Path) -> None:
    """A database error in the middle is a StudyError, and what was finished is there when it works again."""
    config = FakeConfig(tmp_path / "study")
    scored: list[Settings] = []

    def scorer(settings: Settings) -> dict[str, Measurement]:
        scored.append(settings)
        if len(scored) == 4:
            with sqlite3.connect(config.output / "study.db") as connection:
                connection.execute("ALTER TABLE trial_user_attributes RENAME TO hidden")
            connection.close()
        return score(settings)

    with pytest.raises(StudyError, match=r"storage stopped working.*to continue"):
        search(config, FakeSession(scorer=scorer))
    with sqlite3.connect(config.output / "study.db") as connection:
        connection.execute("ALTER TABLE hidden RENAME TO trial_user_attributes")
    connection.close()
    assert search(config).ran == 12 - 3


def interrupting(at: int) -> FakeSession:
    """Ctrl-C in the middle of scoring model number `at`."""
    count: Iterator[int] = iter(range(1, 10_000))

    def scorer(settings: Settings) -> dict[str, Measurement]:
        if next(count) == at:
            raise KeyboardInterrupt
        return score(settings)

    return FakeSession(scorer=scorer)


@pytest.mark.parametrize("at", [2, 12])
def test_ctrl_c_ends_with_a_report_and_leaves_no_trace_after_continuing(tmp_path: Path, at: int) -> None:
    """The report is written, the outcome says interrupted, and the continued study equals the undisturbed one."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=14))
    reported: list[Path] = []
    outcome = search(config, interrupting(at), report=reported.append)
    assert outcome.interrupted
    assert reported == [config.output]
    assert outcome.finished == at - 1
    search(config)
    assert current_trials(config.output) == undisturbed(trials=14)
    again = [trial for trial in trials_of(config.output) if "retry_of" in trial.user_attrs]
    assert len(again) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_sigkill_loses_at_most_the_trial_in_flight(tmp_path: Path, workers: int) -> None:
    """Killed at awkward moments and run again: no finished trial is repeated, and the study is that of one worker."""
    log = tmp_path / "log.txt"
    command = [
        *(sys.executable, str(Path(__file__).parents[1] / "support" / "search_fakes.py")),
        *(str(tmp_path / "study"), str(log), "24", "0.02", str(workers)),
    ]
    kills = 0
    for wait in (0.0, 0.13, 0.31):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        before = len(log.read_text().splitlines()) if log.exists() else 0
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:  # until trials are under way, then a little more
            if log.exists() and len(log.read_text().splitlines()) > before:
                break
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert kills >= 3
    assert current_trials(tmp_path / "study") == undisturbed(trials=24)
    scored = log.read_text().splitlines()
    assert len(scored) - len(set(scored)) <= kills * max(1, workers)


def test_the_time_limit_begins_no_further_trial(tmp_path: Path) -> None:
    """Out of time, the search stops between trials and says how to go on."""
    listener = Recorder()
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=500))
    outcome = search(config, FakeSession(FakeEngine(delay=0.2)), timeout=1.0, listener=listener)
    assert outcome.reason == "timeout"
    assert outcome.finished <= 6
    assert "continue" in listener.message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": SMALL}, "search space.*space.mode"),
        ({"objectives": {"perplexity": "minimize", "footprint": "minimize"}}, "objectives.*objectives.kl_divergence"),
        ({"constraints": {"kl_divergence": parse_constraint("<= 1")}}, "constraints.*<= 1"),
    ],
)
def test_a_changed_study_is_refused_with_what_changed(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """Changes that make trials incomparable are refused, with their name and the remedy; nothing is written."""
    config = FakeConfig(tmp_path / "study")
    search(config, trials=3)
    before = (trials_of(config.output), study_attrs(config.output), (config.output / "model.yaml").read_text())
    with pytest.raises(StudyError, match=rf"(?s){named}.*--fresh"):
        search(replace(config, **change))
    after = (trials_of(config.output), study_attrs(config.output), (config.output / "model.yaml").read_text())
    assert after == before


@pytest.mark.parametrize("subject", ["model", "calibration", "engine", "evaluators.perplexity"])
def test_changed_content_under_the_same_name_is_refused(tmp_path: Path, subject: str) -> None:
    """A text or model that is another one now is noticed although model.yaml is the same."""
    config = FakeConfig(tmp_path / "study")
    search(config, trials=2)
    with pytest.raises(StudyError, match=subject.rpartition(".")[2]):
        search(config, FakeSession(changed={subject: "other"}))


def test_fresh_moves_the_old_study_aside(tmp_path: Path) -> None:
    """Nothing is deleted: the old folder is there under another name, whole."""
    config = FakeConfig(tmp_path / "study")
    search(config, trials=4)
    old = current_trials(config.output)
    outcome = search(replace(config, space=SMALL), fresh=True, trials=2)
    assert outcome.finished == 2
    assert outcome.moved_aside is not None
    assert current_trials(outcome.moved_aside) == old
    assert search(FakeConfig(tmp_path / "new"), fresh=True, trials=1).moved_aside is None


def test_a_storage_url_is_used_instead_of_the_folder(tmp_path: Path) -> None:
    """The study lives at the URL, continues there, and is not thrown away by --fresh."""
    config = FakeConfig(tmp_path / "study")
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    search(config, storage=url, trials=2)
    assert search(config, storage=url, trials=3).ran == 1
    assert not (config.output / "study.db").exists()
    with pytest.raises(UsageError, match="does not delete"):
        search(config, storage=url, fresh=True)


def test_two_searches_cannot_share_a_folder(tmp_path: Path) -> None:
    """The second is refused at once and says why; the first is not disturbed."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=3))
    refused: list[str] = []

    def scorer(settings: Settings) -> dict[str, Measurement]:
        if not refused:
            with pytest.raises(StudyError, match="another search") as caught:
                search(config)
            refused.append(str(caught.value))
        return score(settings)

    assert search(config, FakeSession(scorer=scorer)).finished == 3
    assert refused


def test_a_damaged_storage_is_reported_and_left_alone(tmp_path: Path) -> None:
    """A file that is no database is named, not overwritten."""
    config = FakeConfig(tmp_path / "study")
    config.output.mkdir()
    (config.output / "study.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StudyError, match=r"study\.db.*--fresh"):
        search(config)
    assert (config.output / "study.db").read_bytes().startswith(b"not a database")
    assert search(config, fresh=True, trials=1).finished == 1


def test_an_objective_that_nothing_measures_is_a_configuration_error(tmp_path: Path) -> None:
    """The key and the nearest metric are named before any trial."""
    config = FakeConfig(tmp_path / "study", objectives={"kl_divergenc": "minimize"})
    with pytest.raises(ConfigError, match="kl_divergence") as caught:
        search(config)
    assert caught.value.key == "objectives.kl_divergenc"


def test_a_trial_queued_by_hand_runs_next(tmp_path: Path) -> None:
    """Points that optuna-dashboard or a script enqueues are tried; one outside the space fails alone."""
    import optuna

    config = FakeConfig(tmp_path / "study")
    search(config, trials=2)
    storage = connect(database_url(config.output / "study.db"))
    study = optuna.load_study(study_name="autotune", storage=storage)
    study.enqueue_trial({"mode": "nf4", "ratio": 0.9, "group_size": 64})
    study.enqueue_trial({"mode": "int3"})
    close(storage)
    search(config, trials=4)
    third, fourth = trials_of(config.output)[2:4]
    assert third.user_attrs["settings"]["mode"] == "nf4"
    assert third.user_attrs["origin"] == "enqueued: by hand"
    assert fourth.state.name == "FAIL"
    assert not is_interrupted(fourth)


def test_progress_tells_count_front_and_time_left(tmp_path: Path) -> None:
    """Rows count finished trials, the front has no dominated row, and the time left is that of the report at least."""
    listener = Recorder()
    search(FakeConfig(tmp_path / "study"), listener=listener)
    assert listener.info is not None
    assert (listener.info.total, listener.info.done) == (12, 0)
    assert [row.count for row in listener.rows if not row.duplicate] == list(range(1, 13))
    assert listener.etas[-1] is not None
    assert listener.etas[-1] >= 1
    assert "variants 12 computed" in listener.message


def test_a_forgotten_set_is_refused_before_any_model_is_loaded(tmp_path: Path) -> None:
    """The message has the option to repeat, which gives the study's own configuration again."""
    folder = tmp_path / "study"
    config = FakeConfig(folder, constraints={"footprint": parse_constraint("<= 5 MB", unit="bytes")})
    search(config, trials=2)

    def unreachable(*_: object) -> FakeSession:
        raise AssertionError("a session was opened")

    forgotten = FakeConfig(folder, constraints={"footprint": parse_constraint("<= 6 MB", unit="bytes")})
    with pytest.raises(StudyError, match=r"add --set 'constraints\.footprint=<= 5 MB'\. ") as caught:
        search(forgotten, open_session=unreachable)
    assert "--fresh" in str(caught.value)


def test_the_options_to_repeat_give_the_old_configuration(tmp_path: Path) -> None:
    """Pasted behind the same command, they are read as the values that the study has."""
    from autotune.config.config import config_from
    from autotune.study.storage.database import repeat_options

    text = {"path": str(Path(__file__)), "sequence_length": 32, "samples": 8}
    data = {"model": "org/m", "output": str(tmp_path), "calibration": text, "evaluators": {"perplexity": text}}
    sections = ("calibration", "constraints", "evaluators", "objectives", "runtime", "space")
    new = config_from({**data, "space": "int4", "constraints": {"footprint": "<= 1 GB"}}).as_dict()
    for overrides in (
        ["calibration.samples=4"],
        ["space=quick"],
        ["space={mode: [int4_asym, nf4], group_size: [32, 64]}"],
        ["constraints.footprint=<= 1.2 GB", "evaluators.perplexity.samples=16"],
        ["runtime.ov_config.INFERENCE_PRECISION_HINT=bf16"],
    ):
        old = config_from({**data, "space": "int4", "constraints": {"footprint": "<= 1 GB"}}, overrides).as_dict()
        options = repeat_options(old, new, sections)
        assert options
        words = [word for word in shlex.split(" ".join(options)) if word != "--set"]
        again = config_from({**data, "space": "int4", "constraints": {"footprint": "<= 1 GB"}}, words).as_dict()
        assert again == old
    assert repeat_options({"runtime": {}}, {"runtime": {"device": "GPU"}}, sections) == []
