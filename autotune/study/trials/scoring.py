"""Scoring one model with all evaluators: what decides first, no further than a race allows, nothing that is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.evaluation import Previewing, StagedEvaluator
from autotune.evaluation.stores import Recorded
from autotune.study.trials.trial import PLAN_METRICS

if TYPE_CHECKING:
    from autotune.evaluation import Evaluator, LanguageModel, Measurement, Reference
    from autotune.evaluation.stores import ScoreStore
    from autotune.study.trials.racing import Race
    from autotune.study.trials.trial import Candidate

__all__ = ["Scorer", "is_repeatable"]


@dataclass(frozen=True)
class Scorer:
    """Scores models.

    Attributes:
        evaluators: by name, in the order in which they score.
        deciding: those of them whose metrics an objective or a constraint names; in a race they come first.
        wanted: the metrics that objectives and constraints name.
        references: gives each evaluator's reference.
        compiled: makes a model ready to be scored, for as long as it is entered.
        stage: is told which evaluator is at work.
        store: scores known from earlier.
        key: (evaluator name, plan) -> the key of its scores in the store.
    """

    evaluators: Mapping[str, Evaluator]
    deciding: Collection[str]
    wanted: Collection[str]
    references: Callable[[], Mapping[str, Reference]]
    compiled: Callable[[Any], AbstractContextManager[LanguageModel]]
    stage: Callable[[str], None]
    store: ScoreStore
    key: Callable[[str, Any], str]

    def model(self, model: Any) -> dict[str, Measurement]:
        """Every metric of a model of unknown origin."""
        measured: dict[str, Measurement] = {}
        references = self.references()
        self.stage("compiling")
        with self.compiled(model) as ready:
            for name, evaluator in self.evaluators.items():
                self.stage(f"scoring: {name}")
                measured.update(evaluator.evaluate(ready, references[name]))
        return self._in_order(measured)

    def candidate(self, candidate: Candidate, race: Race | None = None) -> dict[str, Measurement]:
        """Every metric of a trial's model, which is made and compiled only if something about it is not known yet.

        In a race the evaluators that decide come first, and the others only score models that are not beaten by then.

        Raises:
            Beaten: see `Race.check`.
        """
        measured: dict[str, Measurement] = {}
        names = list(self.evaluators)
        if race is not None:
            names.sort(key=lambda name: name not in self.deciding)
        with ExitStack() as stack:
            opened: list[LanguageModel] = []

            def ready() -> LanguageModel:
                if not opened:
                    model = candidate.model
                    self.stage("compiling")
                    opened.append(stack.enter_context(self.compiled(model)))
                return opened[0]

            for name in names:
                if race is not None and name not in self.deciding and race.is_beaten(measured):
                    break
                told: Mapping[str, Measurement] = {}
                for told in self._stages(name, candidate, ready, preview=race is not None):
                    if race is not None:
                        race.check({**measured, **told})
                        if is_preview(self.evaluators[name], told) and self._is_settled(race, {**measured, **told}):
                            break
                measured.update(told)
        return self._in_order(measured)

    def _is_settled(self, race: Race, measured: Mapping[str, Measurement]) -> bool:
        """Whether the model is beaten, and every number that the study needs of it is there."""
        return set(self.wanted) <= {*measured, *PLAN_METRICS} and race.is_beaten(measured)

    def _stages(
        self, name: str, candidate: Candidate, ready: Callable[[], LanguageModel], *, preview: bool
    ) -> Iterator[Mapping[str, Measurement]]:
        """An evaluator's measurements on ever more of the texts: those on record, then what is measured now."""
        evaluator = self.evaluators[name]
        if not is_repeatable(evaluator):
            self.stage(f"scoring: {name}")
            yield from stages(evaluator, ready(), self.references()[name], preview=preview)
            return
        key = self.key(name, candidate.plan)
        known = self.store.get(key)
        if known.stages:
            candidate.digest = known.digest
            yield from known.stages
        if known.complete:
            self.store.counters["reused"] += 1
            return
        self.stage(f"scoring: {name}")
        self.store.counters["measured"] += 1
        model, told = ready(), Recorded(digest=candidate.digest or "")
        # What was begun with a preview goes on behind it.
        preview = preview or bool(known.stages)
        for measurements in stages(evaluator, model, self.references()[name], preview=preview):
            told = replace(told, stages=[*told.stages, measurements])
            if len(told.stages) > len(known.stages):
                self.store.put(key, told)
                yield measurements
        self.store.put(key, replace(told, complete=True))

    def _in_order(self, measured: Mapping[str, Measurement]) -> dict[str, Measurement]:
        """The same measurements in the order of the evaluators and their metrics."""
        metrics = (metric for evaluator in self.evaluators.values() for metric in evaluator.metrics)
        return {metric: measured[metric] for metric in metrics if metric in measured}


def stages(
    evaluator: Evaluator, candidate: LanguageModel, reference: Reference, *, preview: bool = False
) -> Iterator[Mapping[str, Measurement]]:
    """The evaluator's measurements, on ever more of the texts where it can do that; the last are those of all texts.

    With `preview` the cheap part of an evaluator that has one comes first.
    """
    if isinstance(evaluator, StagedEvaluator):
        yield from evaluator.stages(candidate, reference)
    else:
        if preview and isinstance(evaluator, Previewing) and set(evaluator.previewed) < set(evaluator.metrics):
            yield evaluator.preview(candidate, reference)
        yield evaluator.evaluate(candidate, reference)


def is_preview(evaluator: Evaluator, measured: Mapping[str, Measurement]) -> bool:
    """Whether this is the cheap part of the evaluator's measurements, and the rest is still to come."""
    return isinstance(evaluator, Previewing) and set(measured) < set(evaluator.metrics)


def is_repeatable(evaluator: Evaluator) -> bool:
    """Whether the evaluator says that equal models always have equal scores, so that they can be kept."""
    return bool(getattr(evaluator, "repeatable", False))
