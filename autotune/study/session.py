"""Session of a study: a model session with evaluators, references and the study's record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint
from autotune.errors import ConfigError
from autotune.evaluation import (
    Bounding,
    Checking,
    Describing,
    Evaluator,
    Measurement,
    Metric,
    PartedEvaluator,
    Reference,
)
from autotune.evaluation.scores import RELATIVE_TO, Scores
from autotune.evaluation.stores import ScoreStore, reference_key, stored_reference
from autotune.models.intake import window_length
from autotune.study.model_session import ModelSession
from autotune.study.storage.attributes import Description
from autotune.study.storage.manifest import manifest
from autotune.study.trials.clock import StageClock
from autotune.study.trials.held_out import ReportTexts
from autotune.study.trials.scoring import Scorer
from autotune.study.trials.trial import Candidate, as_data, describe, examples_of, shown_answers

if TYPE_CHECKING:
    from autotune.compression.plan import Plan
    from autotune.compression.settings import Settings
    from autotune.models.source import SourceModel
    from autotune.models.tasks.task import Task
    from autotune.study.trials.deployed import DeployedScorer
    from autotune.study.trials.racing import Race


ORIGINAL_PARTS = 8
"""Parts of a reference (of 4,096 tokens for perplexity) on which a study with a precision measures the original."""


class Session(ModelSession):
    """Everything that trials work with: model, engine, evaluators and references of one configuration.

    A study has one session in each worker process.
    """

    _original: Callable[[], Any] | None = None

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """Evaluators by name."""
        from autotune.evaluation.registry import create_evaluator

        return {name: create_evaluator(name, options) for name, options in self.config.evaluators.items()}

    def check_task(self, task: Task) -> None:
        """See `ModelSession`; a study also scores models."""
        from autotune.config.evaluators import wrong_task
        from autotune.evaluation.registry import evaluator_tasks

        super().check_task(task)
        for name in self.config.evaluators:
            if task.name not in (scored := evaluator_tasks(name)):
                raise ConfigError(wrong_task(scored, task), key=f"evaluators.{name}")
        if self.config.runtime.search and not task.generates:
            raise ConfigError(
                f"measures the generation of text, and the model is for {task.name}; remove it. runtime.deployed "
                "scores such models with OpenVINO's defaults",
                key="runtime.search",
            )

    def check_graph(self, source: SourceModel) -> None:
        """See `ModelSession`; a study always scores the original."""
        source.check_scorable()

    def check_tokenizer(self, load: Callable[[], Any]) -> None:
        """See `ModelSession`; some evaluators cannot score every model."""
        checking = [evaluator for evaluator in self.evaluators.values() if isinstance(evaluator, Checking)]
        if checking:
            tokenizer = load()
            for evaluator in checking:
                evaluator.check(tokenizer)

    def window_lengths(self) -> dict[str, int]:
        """See `ModelSession`; here also those of the evaluators."""
        lengths = super().window_lengths()
        for name, evaluator in self.evaluators.items():
            lengths |= window_length(f"evaluators.{name}", getattr(evaluator, "options", None))
        return lengths

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric of every evaluator."""
        return {name: metric for evaluator in self.evaluators.values() for name, metric in evaluator.metrics.items()}

    @cached_property
    def references(self) -> dict[str, Reference]:
        """Evaluator name -> its reference."""
        return self.references_of(self.evaluators)

    def references_of(self, evaluators: Mapping[str, Evaluator]) -> dict[str, Reference]:
        """Get the references of any evaluators; the original is compiled only if something is missing."""
        inputs, stage = self._original_inputs, lambda message: self.stage(message)
        with self.original_model():
            return {
                name: stored_reference(self.store, name, evaluator, self.original_model, inputs, stage)
                for name, evaluator in evaluators.items()
            }

    @contextmanager
    def original_model(self) -> Iterator[Callable[[], Any]]:
        """Enter work that all trials share; the function given compiles the original model when it is first called.

        Nested calls share one model.
        """
        if self._original is not None:
            yield self._original
            return
        with self.shared(), ExitStack() as stack:
            self._original = cache(lambda: stack.enter_context(self.compiled(self.source.path or self.model)))
            try:
                yield self._original
            finally:
                self._original = None

    def bounds(self, plan: Plan) -> dict[str, float]:
        """Return the best value that a plan's model can have, for each metric with a limit that a size bounds."""
        found: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            if isinstance(evaluator, Bounding) and set(self.config.constraints) & set(evaluator.metrics):
                found |= evaluator.bounds(plan.footprint, self.references[name])
        return {name: value for name, value in found.items() if name in self.config.constraints}

    def score(self, candidate: Candidate, race: Race | None = None) -> dict[str, Measurement]:
        """Score a trial's model with the study's evaluators; see `Scorer.candidate`."""
        return self.scorer.candidate(candidate, race)

    def scores_of(self, model: Any) -> Scores:
        """Score a model that has no plan, beside the original."""
        measured = self.scorer.model(model)
        original: dict[str, Measurement] = {}
        scored: dict[str, str] = {}
        for name, evaluator in self.evaluators.items():
            original |= evaluator.original(self.references[name])
            if isinstance(evaluator, Describing):
                scored[name] = evaluator.scored(self.references[name])
        return Scores(measured, original=original, metrics=self.metrics, scored=scored)

    @cached_property
    def scorer(self) -> Scorer:
        """Scores models with the study's evaluators."""
        return self.scorer_of(self.evaluators, lambda: self.references, lambda text: self.stage(text))

    def scorer_of(
        self,
        evaluators: Mapping[str, Evaluator],
        references: Callable[[], Mapping[str, Reference]],
        stage: Callable[[str], None],
    ) -> Scorer:
        """Make a scorer of any evaluators; it stores the scores for later studies."""
        keys = {name: self.reference_key(name, evaluator) for name, evaluator in evaluators.items()}
        return Scorer(
            evaluators,
            self.required,
            references,
            self.compiled,
            stage,
            self.scores,
            lambda name, plan: self.score_key(keys[name], plan),
        )

    @cached_property
    def scores(self) -> ScoreStore:
        """Scores on disk."""
        return ScoreStore(self.cache.references / "scores")

    def score_key(self, reference_key: str, plan: Plan) -> str:
        """Make the key of an evaluator's scores of a plan; it changes with everything that could change them.

        Args:
            reference_key: of the evaluator's reference.
            plan: the plan.
        """
        from autotune.compression.calibration.calibrate import native_precision
        from autotune.compression.calibration.statistics import VERSION
        from autotune.compression.engine import ENGINE_VERSION
        from autotune.distillation.distil import VERSION as DISTILLATION_VERSION

        calibration = [VERSION, native_precision(), self.calibration_fingerprint] if plan.depends_on_calibration else []
        calibration += [DISTILLATION_VERSION] if plan.distilled else []
        parts = [] if self.source.parts is None else [self.source.parts.name]
        return fingerprint("scores", reference_key, ENGINE_VERSION, calibration, plan.key, *parts)

    def reference_key(self, name: str, evaluator: Evaluator) -> str:
        """Make the key of an evaluator's reference."""
        return reference_key(name, evaluator, **self._original_inputs)

    @property
    def _original_inputs(self) -> dict[str, Any]:
        """Everything outside an evaluator that could change the original's numbers, for the keys of references."""
        runtime = self.config.runtime
        return {
            "model_fingerprint": self.source.fingerprint,
            "tokenizer_fingerprint": self.source.tokenizer_fingerprint,
            "ov_config": {"device": runtime.device, **runtime.ov_config},
        }

    @property
    def required(self) -> frozenset[str]:
        """The metrics that objectives and constraints name, or follow from."""
        named = {*self.config.objectives, *self.config.constraints}
        return frozenset(named | (set(RELATIVE_TO) if "relative_error" in named else set()))

    @property
    def deferred(self) -> tuple[str, ...]:
        """The evaluators that score the final front only, at least in part; see `Scorer.deferred`."""
        return self.scorer.deferred if self.config.study.racing else ()

    @cached_property
    def report_texts(self) -> ReportTexts:
        """The held-out texts on which the front is scored at the end of a study."""
        learned = self.needs_calibration and not self.config.calibration.synthetic
        return ReportTexts(
            options=self.config.report,
            search=self.evaluators,
            deciding=self.scorer.deciding,
            references_of=self.references_of,
            scorer_of=self.scorer_of,
            calibration=lambda: self.calibration_windows.tolist() if learned else [],
            tokenizer=lambda: self.tokenizer,
        )

    def front_scores(self, settings: Settings) -> dict[str, Any]:
        """Score a model of the final front: with the deferred evaluators, and on the report texts.

        Returns:
            ``search``, the deferred metrics as data, and the answers that a report shows; ``report``, see
            `ReportTexts.scores`; ``stages`` and ``tokens`` as those of a trial. Instead of the first two, or of either,
            there may be an ``error``.
        """
        found: dict[str, Any] = {}
        clock, before = StageClock(lambda text: None), self.stage
        self.stage = clock
        tokens: dict[str, int] = {}
        try:
            candidate = Candidate(self.engine, self.plan(settings), clock)
            rest = self.scorer.rest(candidate) if self.deferred else {}
            found["search"] = {"metrics": as_data(rest), **shown_answers(examples_of(rest))}
            tokens, candidate.tokens = candidate.tokens, {}
            clock("scoring: report texts")
            found["report"] = self.report_texts.scores(candidate)
            tokens["scoring report texts"] = sum(candidate.tokens.values())
        except Exception as error:  # as in a trial: an error costs this model's scores, not the study
            found["error"] = describe(error)
        finally:
            self.stage = before
        return {**found, "stages": clock.close(), "tokens": tokens}

    def deployed_scores(self, settings: Settings) -> dict[str, Any]:
        """Score one model as deployed; see `DeployedScorer.scores`."""
        return self.deployed_scorer.scores(lambda: self.candidate(settings))

    def runtime_scores(self, settings: Settings) -> dict[str, Any]:
        """Score one model with each setting of `runtime.search`; see `DeployedScorer.each`."""
        return self.deployed_scorer.each(lambda: self.candidate(settings), self.config.runtime.settings)

    def runtime_times(self, settings: Settings) -> dict[str, Any]:
        """Measure the speed of one model with each setting of `runtime.search`; see `DeployedScorer.times`."""
        return self.deployed_scorer.times(lambda: self.candidate(settings), self.config.runtime.settings)

    @property
    def deployed_scorer(self) -> DeployedScorer:
        """Scores models as deployed with the evaluators of objectives and constraints.

        Those that run models in processes of their own do so as deployed in any case, and are left out.
        """
        from autotune.study.trials.deployed import DeployedScorer

        evaluators = {
            name: evaluator
            for name, evaluator in self.evaluators.items()
            if name in self.scorer.deciding and not getattr(evaluator, "as_deployed", False)
        }
        return DeployedScorer(evaluators, lambda: self.references, self.compiled, self.config.runtime.ov_config)

    def candidate(self, settings: Settings) -> Candidate:
        """Plan a model of the final front, without messages of progress."""
        return Candidate(self.engine, self.plan(settings), lambda text: None)

    def describe(self, *, original: bool = False, report: bool = False) -> Description:
        """Describe the study's inputs.

        Args:
            original: also score the original model.
            report: also score the original model on the report texts.

        Raises:
            PlanError: the space has distillation, and this model or machine does not allow it.
        """
        if not (original or report) and True in self.config.space.values("distillation"):
            self.check_distillation()
        clock, before = StageClock(self.stage), self.stage
        self.stage = clock
        try:
            return Description(
                metrics=self.metrics,
                fingerprints=self.fingerprints(),
                source=self.source,
                report_fingerprint=self.report_texts.fingerprint(),
                deferred=self.deferred,
                original=self.original() if original else None,
                report=self.report_texts.describe() if report else None,
                manifest=self.manifest(),  # last, for it records what was computed by then
                stages=clock.close(),
            )
        finally:
            self.stage = before

    def original(self) -> dict[str, Any]:
        """Measure size and scores of the original, in the study's schema.

        With a precision, trials may need a small share of a long text, so the original is measured on as much.
        """
        measured: dict[str, Measurement] = {}
        with self.original_model():
            for name, evaluator in self.evaluators.items():
                if self.config.study.precision is not None and isinstance(evaluator, PartedEvaluator):
                    measured.update(evaluator.original_on(self.references[name], ORIGINAL_PARTS))
                else:
                    measured.update(evaluator.original(self.references[name]))
        scores = {name: {"value": m.value, "stderr": m.stderr} for name, m in measured.items()}
        return {
            "footprint": self.engine.sizes.original,
            "bits_per_weight": self.engine.original_bits_per_weight(),
            "fp32_bytes": self.engine.sizes.fp32,
            "metrics": scores,
        }

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint everything that affects the scores, by subject; see `storage.database.SUBJECTS`."""
        evaluators = {f"evaluators.{name}": evaluator.fingerprint() for name, evaluator in self.evaluators.items()}
        return {**super().fingerprints(), **evaluators}

    def manifest(self) -> dict[str, Any]:
        """Make the study's `manifest.json`; statistics and runtime properties only if they were needed by now."""
        statistics = self.__dict__.get("statistics")  # the property would compute them
        return manifest(
            hashes={**self.fingerprints(), "statistics": getattr(statistics, "fingerprint", None)},
            seeds={"study": self.config.study.seed},
            runtime_properties=self.runtime_properties,
        )

    def counts(self) -> dict[str, tuple[int, int]]:
        """Count what was (computed, reused) by now."""
        parts = self.__dict__  # a part that was never built counted nothing
        statistics = parts["statistics_cache"].counters if "statistics_cache" in parts else {}
        references = parts["store"].counters if "store" in parts else {}
        variants = parts["engine"].counters if "engine" in parts else {}
        scores = parts["scores"].counters if "scores" in parts else {}
        return {
            "statistics": (statistics.get("computed", 0), statistics.get("reused", 0)),
            "references": (references.get("created", 0), references.get("reused", 0)),
            "variants": (variants.get("variants_computed", 0), variants.get("variants_reused", 0)),
            "scores": (scores.get("measured", 0), scores.get("reused", 0)),
        }
