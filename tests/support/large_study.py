"""Studies of thousands of made-up trials, written into the storage without a search."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from optuna.distributions import distribution_to_json
from search_fakes import FakeConfig, FakeEngine, FakePlan, FakeSession, StudyOptions, score_texts, search, space

from autotune.config.space.space import SearchSpace
from autotune.evaluation import Measurement
from autotune.results.storage import CHECKSUM, trial_checksum
from autotune.study.sampling.sampler import Draft, Mirror, point_of
from autotune.study.trials import trial as trial_module
from autotune.study.trials.trial import Candidate, Site, TrialResult, Workplace, run_trial

LARGE = space(
    mode=["int4_asym", "int4_sym", "nf4", "mxfp4"],
    group_size=[32, 64, 128, -1],
    ratio=(0.4, 1.0, 0.001),
    all_layers=[False, True],
    awq=[False, True],
    scale_estimation=[False, True],
)
"""Too large to be listed."""


def write_large_study(folder: Path, trials: int, searched: SearchSpace = LARGE) -> FakeConfig:
    """Search for one trial, then add random ones up to a number; return the configuration.

    Rows are inserted by SQL: `Study.add_trial` takes 25 ms of processor time for each.
    """
    config = FakeConfig(folder / "study", space=searched, study=StudyOptions(trials=1))
    search(config, FakeSession(scorer=score_texts))
    with closing(sqlite3.connect(config.output / "study.db")) as database, database:
        for number, (draft, result, attributes) in enumerate(random_trials(config, trials), start=1):
            started = datetime(2026, 1, 1) + timedelta(seconds=3 * number)
            row = (number, 1, result.state.upper(), started, started + timedelta(seconds=2))
            columns = "number, study_id, state, datetime_start, datetime_complete"
            (own,) = insert(database, "trials", columns, [tuple(map(str, row))])
            kinds = draft.distributions
            params = [
                (own, name, kinds[name].to_internal_repr(value), distribution_to_json(kinds[name]))
                for name, value in draft.params.items()
            ]
            insert(database, "trial_params", "trial_id, param_name, param_value, distribution_json", params)
            values = [(own, place, value, "FINITE") for place, value in enumerate(result.values or ())]
            insert(database, "trial_values", "trial_id, objective, value, value_type", values)
            texts = [(own, key, json.dumps(value)) for key, value in attributes.items()]
            insert(database, "trial_user_attributes", "trial_id, key, value_json", texts)
    return config


def insert(database: sqlite3.Connection, table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> list[int | None]:
    """Insert rows; return their ids."""
    command = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(columns.split(',')))})"
    return [database.execute(command, row).lastrowid for row in rows]


def random_trials(config: FakeConfig, trials: int) -> Iterator[tuple[Draft, TrialResult, dict[str, object]]]:
    """Yield the point, the result and the attributes of random trials."""
    site = Site(config.output, config.objectives, {}, {"perplexity": 40.0, "kl_divergence": 0.0})
    done: dict[str, tuple[int, TrialResult]] = {}

    def measure(candidate: Candidate, _: object) -> Mapping[str, Measurement]:
        return score_texts(candidate.plan.settings)  # type: ignore[attr-defined]

    place = Workplace(site, FakePlan, lambda plan: {}, FakeEngine(), measure, done.get, lambda message: None)  # type: ignore[arg-type]
    with mock.patch.object(trial_module, "gc"), mock.patch.object(trial_module, "save_plan", lambda plan, _: plan.key):
        for number in range(1, trials):
            draft = Mirror([], ["minimize", "minimize"], config.space, "random").draw(0, number)
            settings = config.space.settings(point_of(config.space, draft.params))
            result = run_trial(settings, place)
            if result.state == "complete" and "duplicate_of" not in result.attrs:
                done[result.attrs["plan"]] = (number, result)
            attributes = {"origin": "sampled", "settings": settings.as_dict(), **result.attrs}
            values = None if result.values is None else list(result.values)
            yield draft, result, {**attributes, CHECKSUM: trial_checksum(draft.params, values, attributes)}
