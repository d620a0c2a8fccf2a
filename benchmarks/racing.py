"""Savings and errors of racing, replayed on studies that were scored in full.

    autotune search model.yaml --set study.racing=false   # first, with many trials and windows
    python benchmarks/racing.py reports/study [...]

The replay takes the trials of a study in its order, or shuffled, and its windows in a random order for each seed. Each
trial is raced after each block of windows, against the front of the trials before it, of which the last two are still
running. A stop is wrong if the trial is on the front of all trials by complete scores. The front is the same up to ties
if every trial of it that the raced front lacks is tied, on all windows, with a trial of the raced front that is no
larger.

The error rate of the test alone is measured on the real differences of neighbours in the first objective, shifted to a
mean of zero: share of comparisons that the test ever decides, in either direction.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import common  # noqa: F401  the import path
import numpy as np

from autotune.common.units import Precision, parse_precision
from autotune.evaluation import Measurement
from autotune.evaluation.sequential import are_separated, looks
from autotune.results.front.pareto import costs, hypervolume, nondominated
from autotune.study.loop import LAG
from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url
from autotune.study.storage.history import History
from autotune.study.trials.racing import Dominated, Race, Rival


@dataclass(frozen=True)
class Scored:
    """A trial with complete scores: objective -> value, and the values on each window of those that have them."""

    number: int
    values: dict[str, float]
    windows: dict[str, Any]


def read(folder: Path) -> tuple[dict[str, Any], list[Scored]]:
    """Objectives, and complete trials whose scores are means over windows."""
    import optuna

    storage = connect(database_url(folder / DATABASE))
    study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    objectives = dict(study.user_attrs["objectives"])
    done = [t for t in History(study.get_trials(deepcopy=False)).finished if t.state.name == "COMPLETE"]
    close(storage)
    return objectives, [
        Scored(
            t.number,
            dict(zip(objectives, t.values, strict=True)),
            {name: np.array(values) for name, values in t.user_attrs["sequences"].items() if values},
        )
        for t in done
    ]


def front(trials: list[Scored], objectives: dict[str, Any]) -> list[Scored]:
    """The trials that no other one dominates."""
    if not trials:
        return []
    cost = costs(np.array([list(t.values.values()) for t in trials]), list(objectives.values()))
    return [trial for trial, member in zip(trials, nondominated(cost), strict=True) if member]


def replay(
    objectives: dict[str, Any], trials: list[Scored], seed: int, precision: Precision | None, *, shuffle: bool
) -> dict[str, float]:
    """Race the trials; windows in the order of the seed, trials too if `shuffle`."""
    draw = np.random.default_rng(seed)
    (name,) = trials[0].windows
    count = len(trials[0].windows[name])
    order = draw.permutation(count)
    if shuffle:
        trials = [trials[index] for index in draw.permutation(len(trials))]
    outcomes: list[tuple[Scored, Scored | None]] = []  # with the trial as its race left it, None if it was stopped
    scored = 0
    for trial in trials:
        kept = [raced for _, raced in outcomes[: max(0, len(outcomes) - LAG + 1)] if raced is not None]
        members = front(kept, objectives)
        longest = max(kept, key=lambda each: len(each.windows[name]), default=None)
        rivals = [Rival(t.number, t.values, t.windows) for t in members]
        if precision is not None and longest is not None and longest not in members:
            rivals.append(Rival(longest.number, longest.values, longest.windows, on_front=False))
        race = Race(objectives, rivals, {n: v for n, v in trial.values.items() if n != name}, precision=precision)
        own, raced = trial.windows[name][order], None
        for stop in looks(count):
            partial = {name: mean(own[:stop])}
            try:
                race.check(partial)
            except Dominated:
                break
            if stop == count or race.is_settled(partial):
                value = race.comparable(partial)[name].value if precision is not None else partial[name].value
                raced = Scored(trial.number, {**trial.values, name: value}, {name: own[:stop]})
                break
        scored += stop
        outcomes.append((trial, raced))
    stopped = {trial.number for trial, raced in outcomes if raced is None}
    numbers = {each.number for each in front([raced for _, raced in outcomes if raced is not None], objectives)}
    truth, found = front(trials, objectives), [trial for trial in trials if trial.number in numbers]
    missing = [trial for trial in truth if trial.number not in numbers]
    lost = [trial for trial in missing if not any(is_as_good(other, trial, objectives, name) for other in found)]
    every = costs(np.array([list(t.values.values()) for t in trials]), list(objectives.values()))
    unit = (every - every.min(axis=0)) / np.ptp(every, axis=0)
    chosen = unit[[trial.number in numbers for trial in trials]]
    return {
        "tokens": scored / (count * len(trials)),
        "stopped": len(stopped),
        "wrong": sum(trial.number in stopped for trial in truth),
        "missing": len(missing),
        "lost": len(lost),
        "hypervolume": hypervolume(chosen, np.full(2, 1.1)) / hypervolume(unit, np.full(2, 1.1)),
    }


def mean(values: Any) -> Measurement:
    """The mean of some windows."""
    return Measurement(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5, tuple(values))


def is_as_good(other: Scored, trial: Scored, objectives: dict[str, Any], name: str) -> bool:
    """Test if the other trial is no larger and tied with this one."""
    sizes = [n for n in objectives if n != name]
    return all(other.values[n] <= trial.values[n] for n in sizes) and not are_separated(
        other.windows[name], trial.windows[name]
    )


def error(objectives: dict[str, Any], trials: list[Scored], runs: int) -> tuple[float, int]:
    """Share of decided comparisons of neighbours whose differences have a mean of zero, and their number."""
    (name,) = trials[0].windows
    ranked = sorted(trials, key=lambda trial: trial.values[name])
    draw, decided, count = np.random.default_rng(0), 0, 0
    for one, other in pairwise(ranked):
        difference = one.windows[name] - other.windows[name]
        if not difference.std():
            continue
        difference = difference - difference.mean()
        for _ in range(runs):
            drawn = draw.choice(difference, len(difference))  # with replacement, as from a longer text
            count += 1
            decided += any(are_separated(drawn[:stop], np.zeros(stop)) for stop in looks(len(drawn)))
    return decided / max(count, 1), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--windows", type=int, help="only the first windows of each trial")
    parser.add_argument("--precision", help="as study.precision; none scores the front on all windows")
    parser.add_argument("--comparisons", type=int, default=100, help="resamples of each pair of neighbours")
    parser.add_argument("--shuffle", action="store_true", help="also the trials in a random order")
    options = parser.parse_args()
    for folder in options.folders:
        objectives, trials = read(folder)
        for trial in trials:
            for name, values in trial.windows.items():
                trial.windows[name] = values[: options.windows]
                trial.values[name] = float(trial.windows[name].mean())
        precision = None if options.precision is None else parse_precision(options.precision)
        runs = [replay(objectives, trials, seed, precision, shuffle=options.shuffle) for seed in range(options.seeds)]
        total = {name: np.array([run[name] for run in runs]) for name in runs[0]}
        wrong, compared = error(objectives, trials, options.comparisons)
        tokens = 100 * total["tokens"]
        print(f"{folder}: {len(trials)} trials, {len(front(trials, objectives))} on the front; {options.seeds} seeds")
        print(f"  tokens scored: {tokens.mean():.1f}% ({tokens.min():.1f} to {tokens.max():.1f}%)")
        print(f"  stopped as dominated: {total['stopped'].sum()}, wrongly {total['wrong'].sum()}")
        print(f"  seeds with the same front up to ties: {100 * (total['lost'] == 0).mean():.0f}%, ", end="")
        print(f"exactly {100 * (total['missing'] == 0).mean():.0f}%; trials lost: {total['lost'].sum()}")
        print(f"  hypervolume by complete scores: {100 * total['hypervolume'].min():.2f}% at least")
        print(f"  error of the test: {100 * wrong:.2f}% of {compared} comparisons without a difference", flush=True)


if __name__ == "__main__":
    main()
