"""Scorer: run the evaluators on one model, deciding ones first, and reuse stored scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from autotune.evaluation import Previewing, StagedEvaluator
from autotune.evaluation.stores import Recorded

if TYPE_CHECKING:
    from autotune.evaluation import Evaluator, LanguageModel, Measurement, Reference
    from autotune.evaluation.stores import ScoreStore
    from autotune.study.trials.racing import Race
    from autotune.study.trials.trial import Candidate


@dataclass(frozen=True)
class Scorer:
    """Evaluators with everything they need to score a model.

    Attributes:
        evaluators: by name, in the order in which they score.
        required: the metrics that objectives and constraints name, or follow from.
        references: returns each evaluator's reference.
        compiled: compiles a model for as long as the context is entered.
        stage: receives progress messages.
        store: stored scores.
        key: (evaluator name, plan) -> the key of its scores in the store.
    """

    evaluators: Mapping[str, Evaluator]
    required: Set[str]
    references: Callable[[], Mapping[str, Reference]]
    compiled: Callable[[Any], AbstractContextManager[LanguageModel]]
    stage: Callable[[str], None]
    store: ScoreStore
    key: Callable[[str, Any], str]

    def model(self, model: Any) -> dict[str, Measurement]:
        """Measure every metric of a model that has no plan."""
        measured: dict[str, Measurement] = {}
        references = self.references()
        self.stage("compiling")
        with self.compiled(model) as compiled:
            for name, evaluator in self.evaluators.items():
                self.stage(f"scoring: {name}")
                measured.update(evaluator.evaluate(compiled, references[name]))
        return self._in_order(measured)

    @property
    def deciding(self) -> frozenset[str]:
        """Names of the evaluators with a required metric; in a race they come first."""
        return frozenset(name for name, evaluator in self.evaluators.items() if self.required & set(evaluator.metrics))

    @property
    def deferred(self) -> tuple[str, ...]:
        """Names of the evaluators of which a race leaves metrics out; see `rest`."""
        return tuple(
            name
            for name, evaluator in self.evaluators.items()
            if not (self.required & set(evaluator.metrics)) - previewed_alone(evaluator)
        )

    def candidate(self, candidate: Candidate, race: Race | None = None) -> dict[str, Measurement]:
        """Measure a trial's model, which is built and compiled only if a score is not stored.

        Without a race every metric is measured, and in a race for which every metric is wanted. Any other race
        measures the required ones.

        Raises:
            Dominated: see `Race.check`.
        """
        names = list(self.evaluators)
        if race is not None:
            names.sort(key=lambda name: name not in self.deciding)
            names = names if race.every_metric else [name for name in names if name in self.deciding]
        return self._measured(candidate, names, race)

    def rest(self, candidate: Candidate) -> dict[str, Measurement]:
        """Measure the metrics that a race leaves out: no objective or constraint names them."""
        return self._measured(candidate, self.deferred, None)

    def _measured(self, candidate: Candidate, names: Iterable[str], race: Race | None) -> dict[str, Measurement]:
        measured: dict[str, Measurement] = {}
        with ExitStack() as stack:

            @cache
            def compiled() -> LanguageModel:
                model = candidate.model
                self.stage("compiling")
                return stack.enter_context(self.compiled(model))

            for name in names:
                scores: Mapping[str, Measurement] = {}
                try:
                    for scores in self._stages(name, candidate, compiled, preview=race is not None):
                        if race is not None:
                            race.check({**measured, **scores})
                            if self._is_enough(name, race, scores, {**measured, **scores}):
                                break
                finally:
                    count_tokens(candidate, name, compiled)
                measured.update(scores)
        return self._in_order(measured)

    def _is_enough(
        self, name: str, race: Race, scores: Mapping[str, Measurement], measured: Mapping[str, Measurement]
    ) -> bool:
        """Test if an evaluator need not go on: the rest is deferred, or the main score is precise enough."""
        if is_preview(self.evaluators[name], scores):
            return name in self.deferred and not race.every_metric
        return race.main in scores and race.is_settled(measured)

    def _stages(
        self, name: str, candidate: Candidate, compiled: Callable[[], LanguageModel], *, preview: bool
    ) -> Iterator[Mapping[str, Measurement]]:
        """Yield an evaluator's measurements on more and more of the texts: stored ones, then new ones."""
        evaluator = self.evaluators[name]
        if not is_repeatable(evaluator):
            model = compiled()
            self.stage(f"scoring: {name}")
            yield from stages(evaluator, model, self.references()[name], preview=preview)
            return
        key = self.key(name, candidate.plan)
        stored = self.store.get(key)
        if stored.stages:
            candidate.digest = stored.digest
            yield from stored.stages
        if stored.complete:
            self.store.counters["reused"] += 1
            return
        model = compiled()
        self.stage(f"scoring: {name}")
        self.store.counters["measured"] += 1
        record = Recorded(digest=candidate.digest or "")
        # Scores that begin with a preview continue after it.
        preview = preview or bool(stored.stages)
        for measurements in stages(evaluator, model, self.references()[name], preview=preview):
            record = replace(record, stages=[*record.stages, measurements])
            if len(record.stages) > len(stored.stages):
                self.store.put(key, record)
                yield measurements
        self.store.put(key, replace(record, complete=True))

    def _in_order(self, measured: Mapping[str, Measurement]) -> dict[str, Measurement]:
        """Sort the measurements by the order of the evaluators and their metrics."""
        metrics = (metric for evaluator in self.evaluators.values() for metric in evaluator.metrics)
        return {metric: measured[metric] for metric in metrics if metric in measured}


def count_tokens(candidate: Candidate, name: str, compiled: Any) -> None:
    """Add the tokens of forward passes since the last evaluator to a candidate, if its model was compiled."""
    if compiled.cache_info().currsize:
        total = getattr(compiled(), "tokens", 0)
        candidate.tokens[f"scoring {name}"] = total - sum(candidate.tokens.values())


def stages(
    evaluator: Evaluator, candidate: LanguageModel, reference: Reference, *, preview: bool = False
) -> Iterator[Mapping[str, Measurement]]:
    """Yield the evaluator's measurements, in stages where it supports them; the last are those of all texts.

    With `preview` the cheap metrics come first where the evaluator can measure them alone.
    """
    if isinstance(evaluator, StagedEvaluator):
        yield from evaluator.stages(candidate, reference)
    else:
        if preview and isinstance(evaluator, Previewing) and previewed_alone(evaluator):
            yield evaluator.preview(candidate, reference)
        yield evaluator.evaluate(candidate, reference)


def previewed_alone(evaluator: Evaluator) -> set[str]:
    """Return the metrics that the evaluator can measure at less cost than the others."""
    previewed = set(evaluator.previewed) if isinstance(evaluator, Previewing) else set()
    return previewed if previewed < set(evaluator.metrics) else set()


def is_preview(evaluator: Evaluator, measured: Mapping[str, Measurement]) -> bool:
    """Test if these are only the evaluator's cheap metrics."""
    return isinstance(evaluator, Previewing) and set(measured) < set(evaluator.metrics)


def is_repeatable(evaluator: Evaluator) -> bool:
    """Test if the evaluator declares that equal models always have equal scores, so that they can be stored."""
    return bool(getattr(evaluator, "repeatable", False))
