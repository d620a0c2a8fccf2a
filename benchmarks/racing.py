"""Savings and errors of racing, replayed on studies that were scored in full.

    autotune search model.yaml --set study.racing=false   # first, with many trials
    python benchmarks/racing.py reports/study [...]

Each trial is raced, in the study's order, against the front of the trials before it that were not stopped, after every
pass of the evaluator over `--step` texts. A stop is wrong where the trial is on the final front of all trials.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from autotune.evaluation import Measurement
from autotune.results.pareto import costs, hypervolume
from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url
from autotune.study.storage.history import History
from autotune.study.storage.rows import front_trials
from autotune.study.trials.racing import Dominated, Race, rivals_of


def replay(folder: Path, step: int) -> tuple[int, int, int, float, float]:
    """(trials, stopped, wrongly stopped, share of texts not scored, share of the hypervolume that is left)."""
    import optuna

    storage = connect(database_url(folder / DATABASE))
    study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    objectives = dict(study.user_attrs["objectives"])
    directions = list(objectives.values())
    done = [t for t in History(study.get_trials(deepcopy=False)).finished if t.state.name == "COMPLETE"]
    close(storage)
    truth = {trial.number for trial in front_trials(History(done), directions)}
    kept, stopped, scored, texts = [], [], 0, 0
    for trial in done:
        race = Race(
            objectives,
            rivals_of(front_trials(History(kept), directions), list(objectives)),
            {name: trial.user_attrs[name] for name in objectives if name in trial.user_attrs},
        )
        sequences = {name: values for name, values in trial.user_attrs["sequences"].items() if values}
        length = max(map(len, sequences.values()))
        texts += length
        for count in range(step, length + 1, step):
            parts = {name: tuple(values[:count]) for name, values in sequences.items()}
            try:
                race.check({name: Measurement(float(np.mean(part)), None, part) for name, part in parts.items()})
            except Dominated:
                scored += count
                stopped.append(trial)
                break
        else:
            scored += length
            kept.append(trial)
    wrong = sum(trial.number in truth for trial in stopped)
    return len(done), len(stopped), wrong, 1 - scored / texts, volume(kept, done, directions)


def volume(kept: list, done: list, directions: list) -> float:
    """Hypervolume of the kept trials over that of all, objectives scaled to [0, 1], reference a tenth beyond."""
    cost = costs(np.array([trial.values for trial in done], np.float64), directions)
    unit = (cost - cost.min(axis=0)) / np.ptp(cost, axis=0)
    reference = np.full(unit.shape[1], 1.1)
    numbers = {trial.number for trial in kept}
    chosen = unit[[trial.number in numbers for trial in done]]
    return hypervolume(chosen, reference) / hypervolume(unit, reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--step", type=int, default=8, help="texts of one pass of the evaluator")
    options = parser.parse_args()
    for folder in options.folders:
        trials, stopped, wrong, saved, left = replay(folder, options.step)
        print(
            f"{folder}: {trials} trials, {stopped} stopped ({100 * stopped / trials:.0f}%), {wrong} of them wrongly "
            f"({100 * wrong / max(stopped, 1):.1f}%); {100 * saved:.0f}% of the texts not scored; "
            f"hypervolume {100 * left:.3f}% of that of all trials"
        )


if __name__ == "__main__":
    main()
