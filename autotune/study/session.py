"""Builds what trials work with, each part when it is first needed, and counts what was computed and what was there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from autotune.common.cache import Cache
from autotune.common.files import fingerprint
from autotune.common.threads import thread_limit
from autotune.errors import AutotuneError
from autotune.evaluation import Evaluator, Measurement, Metric, Reference
from autotune.evaluation.stores import ScoreStore
from autotune.evaluation.texts.synthetic import cached_windows, recipe
from autotune.study.storage.manifest import manifest
from autotune.study.trials.held_out import ReportTexts
from autotune.study.trials.scoring import Scorer
from autotune.study.trials.trial import RELATIVE_TO
from autotune.study.workers.memory import check_memory

if TYPE_CHECKING:
    from autotune.allocation.planner import BudgetPlanner
    from autotune.compression.calibration.statistics import Statistics, StatisticsCache
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan
    from autotune.compression.settings import Settings
    from autotune.config.config import Config
    from autotune.evaluation import IntArray
    from autotune.evaluation.stores import ReferenceStore
    from autotune.models.runtime.language_model import OpenVINOLanguageModel
    from autotune.models.source import SourceModel
    from autotune.study.trials.racing import Race
    from autotune.study.trials.trial import Candidate

__all__ = ["Preparation", "prepare"]


def prepare(config: Config, stage: Callable[[str], None]) -> Preparation:
    """Everything for a search from its configuration; nothing heavy happens before it is asked for."""
    return Preparation(config, stage)


class Preparation:
    """Model, tokenizer, statistics, engine, evaluators and references of one configuration.

    Attributes:
        cache: where everything that is computed once is kept.
    """

    def __init__(self, config: Config, stage: Callable[[str], None]) -> None:
        self.config = config
        self.stage = stage
        self.shared: Callable[[], AbstractContextManager[None]] = nullcontext
        self.cache = Cache.resolve(config.cache.directory, limit=config.cache.limit)
        self.runtime_properties: dict[str, str] = {}
        self._not_allocated: Exception | None = None

    def settle_in(self, shared: Callable[[], AbstractContextManager[None]]) -> None:
        """See `Prepared`."""
        import openvino
        import transformers

        import autotune.compression.engine

        _ = openvino, transformers.AutoTokenizer, autotune.compression.engine
        self.shared = shared

    def found(self) -> SourceModel:
        """See `Prepared`: the model with its fingerprints, for which every byte of it was read."""
        return self.source

    def adopt(self, found: SourceModel) -> None:
        """See `Prepared`."""
        self.__dict__["source"] = found

    @cached_property
    def source(self) -> SourceModel:
        """The original model as an OpenVINO folder, exported now if it has to be."""
        from autotune.models.source import resolve_model

        self.stage(f"loading {self.config.model}")
        return resolve_model(self.config.model, cache=self.cache, trust_remote_code=self.config.trust_remote_code)

    @cached_property
    def model(self) -> Any:
        """The original `ov.Model`; nothing changes it."""
        return self.source.read()

    @cached_property
    def tokenizer(self) -> Any:
        """The original's `transformers` tokenizer."""
        return self.source.tokenizer()

    @cached_property
    def calibration_texts(self) -> list[str]:
        """The texts of `calibration`; none where the model writes them."""
        from autotune.evaluation.texts.sources import read_texts

        return [] if self.config.calibration.synthetic else read_texts(self.config.calibration)

    @cached_property
    def needs_calibration(self) -> bool:
        """Whether any point of the space looks at activations; if none does, no calibration text is read."""
        return self.config.space.needs_calibration

    @cached_property
    def statistics_cache(self) -> StatisticsCache:
        """Calibration statistics on disk."""
        from autotune.compression.calibration.statistics import StatisticsCache

        return StatisticsCache(self.cache.statistics)

    @cached_property
    def statistics(self) -> Statistics:
        """The calibration statistics, computed or read when they are first needed."""
        calibration = self.config.calibration
        windows = self.calibration_windows
        self.stage(f"calibrating: {calibration.samples} windows of {calibration.sequence_length} tokens")
        with self.shared():
            return self.statistics_cache.get_or_collect(
                self.model,
                self.engine.activations,
                windows,
                model_fingerprint=self.source.fingerprint,
                progress=lambda done, total: self.stage(f"calibrating: {done} of {total} windows"),
            )

    @cached_property
    def calibration_windows(self) -> IntArray:
        """The calibration text as tokens, int64 [n, T]; written by the model now where that is what is asked for."""
        from autotune.evaluation.texts.sources import describe_source, token_windows

        calibration, runtime = self.config.calibration, self.config.runtime
        if not calibration.synthetic:
            return token_windows(
                self.tokenizer,
                self.calibration_texts,
                sequence_length=calibration.sequence_length,
                samples=calibration.samples,
                name=f"the calibration text {describe_source(calibration)}",
            )
        self.stage(f"the model writes {calibration.samples} windows of {calibration.sequence_length} tokens")
        with self.shared():
            return cached_windows(
                self.store,
                lambda: self.compiled(self.model),
                samples=calibration.samples,
                sequence_length=calibration.sequence_length,
                seed=self.config.study.seed,
                source=self.source,
                ov_config={"device": runtime.device, **runtime.ov_config},
            )

    @cached_property
    def engine(self) -> Engine:
        """The compression engine over the layer bank."""
        from autotune.compression.bank import Bank
        from autotune.compression.engine import Engine

        with self.shared():
            engine = Engine(
                self.model,
                bank=Bank(self.cache.bank, limit=self.cache.limit),
                statistics=(lambda: self.statistics) if self.needs_calibration else None,
                model_fingerprint=self.source.fingerprint,
                allocate=self.allocate if "budget" in self.config.space.allocations else None,
            )
        check_memory(self.config.study.memory_limit, engine.sizes.original)
        return engine

    def allocate(self, settings: Settings) -> Plan:
        """The plan of settings with a budget."""
        assert settings.budget is not None
        if self._not_allocated is not None:
            raise self._not_allocated  # what could not be measured once is not tried again for every budget
        try:
            planner = self.planner
        except (AutotuneError, RuntimeError) as error:
            self._not_allocated = error
            raise
        return planner.plan(settings.budget)

    @cached_property
    def planner(self) -> BudgetPlanner:
        """Spends budgets by measured errors, which the first worker to come here measures, for all others."""
        from autotune.study.budget_planner import open_planner

        with self.shared():
            return open_planner(self)

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """Evaluators by name."""
        from autotune.evaluation.registry import create_evaluator

        return {name: create_evaluator(name, options) for name, options in self.config.evaluators.items()}

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric of every evaluator."""
        return {name: metric for evaluator in self.evaluators.values() for name, metric in evaluator.metrics.items()}

    @cached_property
    def store(self) -> ReferenceStore:
        """References on disk."""
        from autotune.evaluation.stores import ReferenceStore

        return ReferenceStore(self.cache.references)

    @cached_property
    def references(self) -> dict[str, Reference]:
        """Evaluator name -> what it keeps of the original."""
        return self.references_of(self.evaluators)

    def references_of(self, evaluators: Mapping[str, Evaluator]) -> dict[str, Reference]:
        """The references of any evaluators; the original is compiled only where one is missing."""
        found: dict[str, Reference] = {}
        with self.shared(), ExitStack() as stack:
            opened: list[Any] = []

            def create(name: str, evaluator: Evaluator) -> Reference:
                if not opened:
                    opened.append(stack.enter_context(self.compiled(self.source.path)))
                self.stage(f"the original model's reference for {name}")
                return evaluator.reference(opened[0])

            for name, evaluator in evaluators.items():
                key = self.reference_key(name, evaluator)
                found[name], _ = self.store.get_or_create(key, partial(create, name, evaluator))
        return found

    def compiled(self, model: Any) -> OpenVINOLanguageModel:
        """A model ready to be scored, on the configured device with the configured properties."""
        from autotune.models.runtime.language_model import OpenVINOLanguageModel, end_token_ids

        runtime = self.config.runtime
        threads = thread_limit()  # changes how long a score takes, and not a bit of it
        share: dict[str, Any] = {}
        if threads is not None and runtime.device == "CPU":
            # OpenVINO binds its threads to the first cores, which are the same ones in every worker.
            share = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        compiled = OpenVINOLanguageModel(
            model,
            self.tokenizer,
            device=runtime.device,
            ov_config={**share, **runtime.ov_config},
            eos_token_ids=end_token_ids(self.source.path, self.tokenizer),
        )
        self.runtime_properties = dict(compiled.properties)
        return compiled

    def score(self, candidate: Candidate, race: Race | None = None) -> dict[str, Measurement]:
        """See `Prepared`."""
        return self.scorer.candidate(candidate, race)

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
        """Scores models with any evaluators, and keeps the scores for later studies beside the references."""
        keys = {name: self.reference_key(name, evaluator) for name, evaluator in evaluators.items()}
        return Scorer(
            evaluators,
            self.deciding,
            {*self.config.objectives, *self.config.constraints},
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
        """The key of what an evaluator tells of a plan: changes with everything that could change its numbers.

        Args:
            reference_key: of the evaluator's reference.
            plan: the plan.
        """
        from autotune.compression.calibration.calibrate import native_precision
        from autotune.compression.calibration.statistics import VERSION
        from autotune.compression.engine import ENGINE_VERSION

        calibration = [VERSION, native_precision(), self.calibration_fingerprint] if plan.depends_on_calibration else []
        return fingerprint("scores", reference_key, ENGINE_VERSION, calibration, plan.key)

    def reference_key(self, name: str, evaluator: Evaluator) -> str:
        """The key of what an evaluator keeps of the original."""
        from autotune.evaluation.stores import reference_key

        runtime = self.config.runtime
        return reference_key(
            name,
            evaluator,
            model_fingerprint=self.source.fingerprint,
            tokenizer_fingerprint=self.source.tokenizer_fingerprint,
            ov_config={"device": runtime.device, **runtime.ov_config},
        )

    @cached_property
    def deciding(self) -> frozenset[str]:
        """The evaluators whose metrics an objective or a constraint names."""
        wanted = {*self.config.objectives, *self.config.constraints}
        wanted |= set(RELATIVE_TO) if "relative_error" in wanted else set()
        return frozenset(name for name, evaluator in self.evaluators.items() if wanted & set(evaluator.metrics))

    @cached_property
    def report(self) -> ReportTexts:
        """The texts that the front is scored on in the end."""
        return ReportTexts(self)

    def report_fingerprint(self) -> str | None:
        """See `Prepared`."""
        return self.report.fingerprint()

    def report_texts(self) -> dict[str, Any]:
        """See `Prepared`."""
        return self.report.describe()

    def report_scores(self, settings: Settings) -> dict[str, Any]:
        """See `Prepared`."""
        return self.report.scores(settings)

    def original(self) -> dict[str, Any]:
        """Size and scores of the original, in the study's schema."""
        measured: dict[str, Measurement] = {}
        for name, evaluator in self.evaluators.items():
            measured.update(evaluator.original(self.references[name]))
        scores = {name: {"value": m.value, "stderr": m.stderr} for name, m in measured.items()}
        return {
            "footprint": self.engine.sizes.original,
            "bits_per_weight": self.engine.original_bits_per_weight(),
            "fp32_bytes": self.engine.sizes.fp32,
            "metrics": scores,
        }

    def fingerprints(self) -> dict[str, str]:
        """What decides the scores, by subject; see `storage.SUBJECTS`."""
        from autotune.compression.engine import ENGINE_VERSION

        texts = {"calibration": self.calibration_fingerprint} if self.needs_calibration else {}
        return {
            "model": self.source.fingerprint,
            "tokenizer": self.source.tokenizer_fingerprint,
            **texts,
            "engine": fingerprint(ENGINE_VERSION),
            **{f"evaluators.{name}": evaluator.fingerprint() for name, evaluator in self.evaluators.items()},
        }

    @cached_property
    def calibration_fingerprint(self) -> str:
        """Changes with the calibration texts and how they are cut."""
        calibration = self.config.calibration
        if calibration.synthetic:
            return recipe(calibration.samples, calibration.sequence_length, self.config.study.seed)
        return fingerprint(calibration.samples, calibration.sequence_length, *self.calibration_texts)

    def manifest(self) -> dict[str, Any]:
        """The study's `manifest.json`; statistics and runtime properties as far as they were needed by now."""
        statistics = self.__dict__.get("statistics")  # asking the property would compute it
        return manifest(
            hashes={**self.fingerprints(), "statistics": getattr(statistics, "fingerprint", None)},
            seeds={"study": self.config.study.seed},
            runtime_properties=self.runtime_properties,
        )

    def counts(self) -> dict[str, tuple[int, int]]:
        """What was (computed, found ready) by now."""
        parts = self.__dict__  # what was never needed was neither computed nor found
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
