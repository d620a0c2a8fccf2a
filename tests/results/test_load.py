"""Reading a study from its storage, and the errors if that fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import optuna
import pytest

from autotune.errors import StudyError
from autotune.results.frame import answers_frame, front_frame
from autotune.results.load import load_results, results_of
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]

NAMED = [
    "trial",
    "state",
    "plan",
    "mode",
    "group_size",
    "ratio",
    "backup_mode",
    "sensitivity_metric",
    "all_layers",
    "awq",
    "scale_estimation",
    "gptq",
    "gptq_act_order",
    "lora_correction",
    "lora_rank",
    "distillation",
    "footprint",
    "bits_per_weight",
    "compression_rate",
    "int4_percent",
    "int8_percent",
    "similarity",
    "fdt",
    "fdt_norm",
    "sdt",
    "sdt_norm",
    "kl_divergence",
    "top1_agreement",
    "answer_kl_divergence",
    "answer_top1_agreement",
    "perplexity",
    "perplexity_increase",
    "relative_error",
    "seconds_compress",
    "seconds_evaluate",
    "on_front",
    "error",
]


@pytest.mark.parametrize("trials", [0, 1, 24])
def test_columns_come_in_the_agreed_order(make: Make, trials: int) -> None:
    """The named columns first, in order and always; standard errors last."""
    columns = list(make(trials=trials, extra_metrics=["judge"]).trials.columns)
    assert columns[: len(NAMED)] == NAMED
    assert columns.index("judge") == len(NAMED)
    first = next((i for i, name in enumerate(columns) if name.endswith("_stderr")), len(columns))
    assert all(name.endswith("_stderr") for name in columns[first:])


def test_every_trial_is_a_row(make: Make) -> None:
    """All states are there, failed ones with their reason and without scores."""
    results = make(trials=12)
    assert results.trials["trial"].tolist() == list(range(12))
    assert results.trials.at[9, "state"] == "FAIL"
    assert results.trials.at[9, "error"] == "EvaluationError: logits of window 12 are NaN"
    assert results.value(9, "kl_divergence") is None


@pytest.mark.parametrize(
    "objectives", [{"kl_divergence": "minimize", "similarity": "maximize", "footprint": "minimize"}, None]
)
def test_front_is_optunas_without_repeats(fake: ModuleType, objectives: dict[str, str] | None) -> None:
    """Our front equals Optuna's best trials, each plan once."""
    study = fake.build(trials=36, objectives=objectives)
    results = results_of(study)
    expected = [t.number for t in study.best_trials if "duplicate_of" not in t.user_attrs]
    assert sorted(results.front) == sorted(expected)
    assert results.knee in results.front
    assert results.trials.index[results.trials["on_front"]].tolist() == sorted(results.front)


def test_front_runs_from_large_to_small(make: Make) -> None:
    """The front is ordered by footprint, the largest first."""
    results = make()
    sizes = [results.value(number, "footprint") or 0.0 for number in results.front]
    assert sizes == sorted(sizes, reverse=True)


def test_a_repeat_shows_the_numbers_of_its_source(make: Make) -> None:
    """A trial that repeats a plan has that plan's sizes and scores, and no place on the front."""
    results = make()
    repeats = {n: r.duplicate_of for n, r in results.records.items() if r.duplicate_of is not None}
    assert repeats
    for number, source in repeats.items():
        for name in ("footprint", "compression_rate", "kl_divergence", "perplexity", "kl_divergence_stderr"):
            assert results.value(number, name) == results.value(source, name)
        assert number not in results.front


def test_settings_that_do_not_apply_are_empty(make: Make) -> None:
    """int8 has no group size, ratio or toggles; mxfp4 shows its fixed group size."""
    results = make()
    assert results.records[0].settings["mode"] == "int8_asym"
    assert results.trials.loc[0, ["group_size", "ratio", "awq"]].isna().all()
    mx = results.trials[results.trials["mode"] == "mxfp4"]
    assert (mx["group_size"] == 32).all()


def test_the_front_as_a_frame_begins_with_the_original(make: Make) -> None:
    """One row for the original and one a front trial, with the columns and types of trials.csv."""
    results = make(trials=16)
    frame = front_frame(results, original=True)
    assert list(frame.index) == ["original", *results.front]
    assert frame.dtypes.equals(results.trials.dtypes)
    first = frame.iloc[0]
    assert (first["mode"], first["footprint"], first["perplexity"]) == ("original", 44_040_192, 40.271)
    assert frame["trial"].isna().tolist() == [True] + [False] * len(results.front)
    assert front_frame(results).equals(results.trials.loc[list(results.front)])


def test_violations_without_optunas_constraints_are_worked_out(fake: ModuleType) -> None:
    """A trial that was imported without constraint values is judged by the study's limits."""
    study = fake.build(trials=3, constraints={})
    study.set_user_attr("constraints", {"footprint": {"op": "<=", "value": 15e6, "text": "<= 15 MB"}})
    results = results_of(study)
    assert results.trials["feasible"].tolist() == [False, True, True]
    assert 0 not in results.front


def test_all_infeasible_names_the_nearest(make: Make) -> None:
    """Without a feasible trial there is no front and no knee, but the least infeasible trial.

    It is found among the scored trials and among those that were stopped because of their size alone.
    """
    for name, limit in (("footprint", 1e6), ("perplexity_increase", -5.0)):
        results = make(constraints={name: {"op": "<=", "value": limit, "text": f"<= {limit}"}})
        assert results.front == ()
        assert results.knee is None
        assert not results.trials["feasible"].fillna(False).any()
        values = {number: results.value(number, name) for number in results.records}
        present = {number: value for number, value in values.items() if value is not None}
        assert results.least_infeasible == min(present, key=lambda number: (present[number], number))


def test_unfinished_trials_are_rows_too(fake: ModuleType) -> None:
    """A running trial and a waiting one do not disturb anything."""
    study = fake.build(trials=6)
    study.ask()
    study.enqueue_trial({"mode": "nf4"})
    results = results_of(study)
    assert results.trials["state"].tolist()[-2:] == ["RUNNING", "WAITING"]
    assert len(results.complete) == 6


def test_importances_need_fifty_trials(make: Make) -> None:
    """Below 50 complete trials none are computed; above, one share for each parameter and objective."""
    assert make(trials=36).importances == {}
    shares = make(trials=56).importances
    assert set(shares) == {"kl_divergence", "footprint"}
    assert all(0 <= share <= 1 for entries in shares.values() for share in entries.values())


def test_a_missing_standard_error_is_none(make: Make) -> None:
    """A score without standard error has None, and the column exists if any trial has one."""
    results = make(trials=4)
    assert results.stderr(0, "relative_error") is None
    assert results.stderr(0, "kl_divergence") is not None
    assert results.stderr(0, "no_such_metric") is None


def test_original_scores_are_measured_or_perfect(make: Make) -> None:
    """The original's row has measured scores, perfect ones of metrics that say so, and None for the rest."""
    results = make(trials=2, extra_metrics=["judge"])
    perplexity = results.original_score("perplexity")
    assert perplexity is not None
    assert perplexity.value == 40.271
    judge = results.original_score("judge")
    assert judge is not None
    assert judge.value == 1.0
    assert results.original_score("fdt") is None


def test_no_study_says_what_to_do(tmp_path: Path) -> None:
    """A folder without study.db, a file that is no database and a storage without our study each give one paragraph."""
    with pytest.raises(StudyError, match=r"study\.db: there is no study here.*autotune search.*--storage"):
        load_results(tmp_path)
    assert not (tmp_path / "study.db").exists()
    (tmp_path / "study.db").write_text("this is no database, but long enough to be looked at " * 40)
    with pytest.raises(StudyError, match="not a readable Optuna storage"):
        load_results(tmp_path)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    optuna.create_study(study_name="somebody-else", storage=other)
    with pytest.raises(StudyError, match="holds no study named 'autotune'"):
        load_results(tmp_path, other)


def test_foreign_and_future_studies_are_refused() -> None:
    """A study without our attributes, or of a newer schema, is not guessed at."""
    study = optuna.create_study()
    with pytest.raises(StudyError, match="schema_version"):
        results_of(study)
    study.set_user_attr("schema_version", 99)
    study.set_user_attr("objectives", {})
    with pytest.raises(StudyError, match="schema version 99"):
        results_of(study)


def test_the_tables_of_a_newer_optuna_are_refused(tmp_path: Path) -> None:
    """With Optuna's own words; those of this version are read."""
    database = tmp_path / "study.db"
    optuna.create_study(study_name="autotune", storage=f"sqlite:///{database}")
    with pytest.raises(StudyError, match="schema_version"):
        load_results(tmp_path)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(StudyError, match=r"not a readable Optuna storage.*Optuna"):
        load_results(tmp_path)


def test_storage_object_and_url_give_the_same(folder: Path) -> None:
    """The folder's database, its URL and an open storage are one study."""
    url = f"sqlite:///{folder / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    frames = [load_results(folder).trials, load_results(folder, url).trials, load_results(folder, storage).trials]
    storage.remove_session()
    storage.engine.dispose()
    assert all(frame.equals(frames[0]) for frame in frames)


def test_answers_are_a_frame(make: Make) -> None:
    """One row an answer that was kept, none where none were."""
    record = make(trials=1).records[0]
    answer = {"prompt": "p", "original": "a", "answer": "b", "score": 0.4}
    frame = answers_frame(replace(record, answers={"count": 3, "same": 2, "different": [answer]}))
    assert frame.to_dict("records") == [answer]
    assert answers_frame(record).empty


def test_scores_on_part_of_the_texts_are_kept_apart(fake: ModuleType) -> None:
    """A trial that racing stopped has no metric in the table, and the table says on what it was scored."""
    study = fake.build(trials=3, failing=())
    done = study.get_trials()[2]
    attrs = {**done.user_attrs, "plan": "another", "beaten_by": 1, "beaten_after": 16}
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, user_attrs=attrs))
    results = results_of(study)
    assert results.trials.loc[3, "scored_on"] == "first 16 sequences"
    assert results.trials.loc[2, "scored_on"] == "all texts"
    assert all(results.value(3, name) is None for name in results.metrics if name != "footprint")
    assert results.value(3, "footprint") == done.user_attrs["footprint"]
    assert results.records[3].partial["perplexity"].value == done.user_attrs["metrics"]["perplexity"]["value"]


def test_a_budget_is_named_by_the_bits_that_its_plan_has(fake: ModuleType) -> None:
    """A budget of 4 bits is below what any plan needs: the trial has 4.12 bits per weight, not "at most 4"."""
    study = fake.build(trials=2, failing=())
    trial = study.get_trials()[1]
    settings = {"mode": "mixed", "allocation": "budget", "budget": 4.0}
    sizes = {"bits_per_weight": 4.125, "int4_percent": 97.0, "int8_percent": 3.0}
    attrs = {**trial.user_attrs, "settings": settings, "plan": "another", **sizes}
    study.add_trial(optuna.trial.create_trial(values=trial.values, user_attrs=attrs))
    record = results_of(study).records[2]
    assert record.describe() == "mixed, 4.12 bits per weight: 97% in 4 bits, 3% in 8 bits"
    assert record.describe(short=True) == "mixed 4.12 bits"


def test_interrupted_trials_are_no_failures(fake: ModuleType) -> None:
    """Tables, counts and JSON call them interrupted; once repeated they need no explanation."""
    from autotune.reporting.text.terminal import as_json
    from autotune.results.front.decision import failures

    study = fake.build(trials=3, failing=())
    settings = fake.settings_of({"mode": "int8_sym"})
    error = {"type": "interrupted", "message": "the process ended", "traceback": ""}
    fail = optuna.trial.TrialState.FAIL
    study.add_trial(optuna.trial.create_trial(state=fail, user_attrs={"settings": settings, "error": error}))
    results = results_of(study)
    assert results.trials.loc[3, "state"] == "INTERRUPTED"
    assert as_json(results)["trials"] == {"complete": 3, "interrupted": 1}
    assert [record.number for record in failures(results)] == [3]
    again = study.get_trials()[2]
    attrs = {**again.user_attrs, "plan": "another", "retry_of": 3}
    study.add_trial(optuna.trial.create_trial(values=again.values, user_attrs=attrs))
    assert failures(results_of(study)) == []
