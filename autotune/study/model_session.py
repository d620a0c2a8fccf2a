"""Session of one model: source, tokenizer, calibration and engine, each built when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.cache import Cache
from autotune.common.files import fingerprint
from autotune.common.machine import available_memory, check_memory, own_memory
from autotune.config.candidates import check_in_parts
from autotune.errors import AutotuneError, ConfigError, PlanError
from autotune.evaluation.texts.synthetic import cached_windows, synthetic_fingerprint
from autotune.models.intake import check_window, window_length

if TYPE_CHECKING:
    import openvino as ov

    from autotune.allocation.planner import BudgetPlanner
    from autotune.allocation.probe import MeasuringInputs
    from autotune.compression.bank import Bank
    from autotune.compression.calibration.calibrate import Depth
    from autotune.compression.calibration.statistics import Statistics, StatisticsCache
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan
    from autotune.compression.settings import Settings
    from autotune.compression.variants import CompressedWeight
    from autotune.config.config import Config
    from autotune.evaluation import IntArray
    from autotune.evaluation.stores import ReferenceStore
    from autotune.models.source import SourceModel
    from autotune.models.tasks.task import Task

TRAINING = 4  # windows that distillation trains on, in calibration windows, if the text has as many


class ModelSession:
    """Model, tokenizer, calibration statistics and engine of one configuration.

    Attributes:
        config: the configuration.
        stage: receives progress messages.
        cache: stores everything that is computed once.
        shared: entered around work that all trials of a study share; see `warm_up`.
        needs_calibration: whether the engine has calibration statistics; otherwise no calibration text is read.
        distillation_notes: gain of the last distillation, in a sentence.
        runtime_properties: properties of the model compiled last, as OpenVINO reports them.
    """

    def __init__(
        self,
        config: Config,
        stage: Callable[[str], None],
        *,
        calibrated: bool | None = None,
        depth: Callable[[Engine], Depth] | None = None,
        weights_in_memory: bool = True,
    ) -> None:
        """Build nothing yet.

        Args:
            config: the configuration.
            stage: receives progress messages.
            calibrated: see `needs_calibration`; None decides by the search space.
            depth: returns the depth of the calibration statistics; None is ``full``.
            weights_in_memory: keep compressed weights in memory; False where each is needed once.
        """
        self.config = config
        self.stage = stage
        self.shared: Callable[[], AbstractContextManager[None]] = nullcontext
        self.cache = Cache.resolve(config.cache.directory, limit=config.cache.limit)
        self.cache.hold(self)
        self.cache.remove_leftovers()
        self.needs_calibration = config.needs_calibration if calibrated is None else calibrated
        self.runtime_properties: dict[str, str] = {}
        self.distillation_notes: tuple[str, ...] = ()
        self._depth = depth
        self._weights_in_memory = weights_in_memory

    def warm_up(self, shared: Callable[[], AbstractContextManager[None]]) -> None:
        """Import the heavy modules; a worker process calls this first.

        Args:
            shared: entered around work that all trials of the study share, rather than one trial's own.
        """
        import openvino
        import transformers

        import autotune.compression.engine

        _ = openvino, transformers.PreTrainedTokenizerFast, autotune.compression.engine
        self.shared = shared

    @cached_property
    def source(self) -> SourceModel:
        """The original model as an OpenVINO folder, exported if necessary; may be set to another session's."""
        from autotune.models.intake import read_intake
        from autotune.models.save import compressed_parts
        from autotune.models.source import resolve_model
        from autotune.models.tasks.registry import find_task
        from autotune.models.tokenizer import load_tokenizer

        name, remote = self.config.model, self.config.trust_remote_code
        self.stage(f"loading {name}")
        local = read_intake(name) if Path(name).expanduser().is_dir() else None
        self.check_windows(None if local is None else local.positions)  # before an export, if config.json says it
        if local is not None:
            self.check_task(find_task(name, self.config.task))
            self.check_tokenizer(lambda: load_tokenizer(Path(name).expanduser(), trust_remote_code=remote))
        source = resolve_model(name, cache=self.cache, trust_remote_code=remote, task=self.config.task)
        if source.path is None or not (source.path / "openvino_tokenizer.xml").is_file():
            self.tokenizer = source.tokenizer()  # the compressed folder needs it: refused before any work
        self.check_windows(source.positions)
        if local is None:
            self.check_tokenizer(lambda: self.tokenizer if "tokenizer" in self.__dict__ else source.tokenizer())
        self.check_task(source.task)
        self.check_graph(source)
        return compressed_parts(source, self.cache, self.config.target)

    def check_tokenizer(self, load: Callable[[], Any]) -> None:
        """Refuse a model by its tokenizer; compression alone takes any. `load` is called only if it is needed."""

    def check_task(self, task: Task) -> None:
        """Refuse what models of this task cannot do.

        Raises:
            ConfigError: it is in the configuration.
        """
        if self.needs_calibration and self.config.calibration.synthetic and not task.generates:
            raise ConfigError(
                f"a model for {task.name} writes no texts; name a text: {{path: calibration.txt}} or {{dataset: ...}}",
                key="calibration.synthetic",
            )
        check_in_parts(self.config.candidates, task)

    def check_graph(self, source: SourceModel) -> None:
        """Refuse an original that cannot be run as this session needs it; for weights alone any graph will do.

        Raises:
            ConfigError: it is stateless, of a fixed shape, or no decoder.
        """
        if self.needs_calibration:
            source.check_scorable(cache=False)

    def check_windows(self, positions: int | None) -> None:
        """Refuse texts whose sequences are longer than the model's positions; None is no limit.

        Raises:
            ConfigError: a sequence is longer.
        """
        for key, length in self.window_lengths().items():
            check_window(key, length, positions, self.config.model)

    def window_lengths(self) -> dict[str, int]:
        """Tokens of the longest sequence of each text, by the key in model.yaml that sets it."""
        return window_length("calibration", self.config.calibration) if self.needs_calibration else {}

    @cached_property
    def model(self) -> Any:
        """The original `ov.Model`; never changed."""
        return self.source.read()

    @cached_property
    def tokenizer(self) -> Any:
        """The original's `transformers` tokenizer."""
        return self.source.tokenizer()

    def compiled(self, model: Any, ov_config: Mapping[str, Any] | None = None, columns: int = 0) -> Any:
        """Compile a model on the configured device, by default with the configured properties; see `Task.compiled`."""
        from autotune.models.runtime.compile import thread_share

        runtime = self.config.runtime
        compiled = self.source.task.compiled(
            model,
            self.tokenizer,
            folder=self.source.parts or self.source.path,
            device=runtime.device,
            ov_config={**thread_share(runtime.device), **(runtime.ov_config if ov_config is None else ov_config)},
            columns=columns,
        )
        self.runtime_properties = dict(compiled.properties)
        return compiled

    @cached_property
    def calibration_texts(self) -> list[str]:
        """The calibration texts; empty for synthetic ones."""
        from autotune.evaluation.texts.sources import read_texts

        return [] if self.config.calibration.synthetic else read_texts(self.config.calibration)

    @cached_property
    def calibration_windows(self) -> IntArray:
        """The calibration texts as tokens, int64 [n, T]; generated by the model if they are synthetic."""
        calibration, runtime = self.config.calibration, self.config.runtime
        if not calibration.synthetic:
            return self._windows(calibration.samples)
        self.stage(f"generating {calibration.samples} windows of {calibration.sequence_length} tokens with the model")
        with self.shared():
            return cached_windows(
                self.store,
                lambda: self.compiled(self.source.path or self.model),
                samples=calibration.samples,
                sequence_length=calibration.sequence_length,
                seed=self.config.study.seed,
                model_fingerprint=self.source.fingerprint,
                tokenizer_fingerprint=self.source.tokenizer_fingerprint,
                ov_config={"device": runtime.device, **runtime.ov_config},
            )

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint everything that affects the compressed models, by subject."""
        from autotune.compression.engine import ENGINE_VERSION

        return {
            "model": self.source.fingerprint,
            "tokenizer": self.source.tokenizer_fingerprint,
            **({"calibration": self.calibration_fingerprint} if self.needs_calibration else {}),
            "engine": fingerprint(ENGINE_VERSION),
        }

    @cached_property
    def training_windows(self) -> IntArray:
        """The tokens that distillation trains on, int64 [n, T]: the calibration windows and those that follow them."""
        calibration = self.config.calibration
        return self.calibration_windows if calibration.synthetic else self._windows(TRAINING * calibration.samples)

    def _windows(self, samples: int) -> IntArray:
        from autotune.evaluation.texts.sources import describe_source

        calibration = self.config.calibration
        return self.source.task.windows(
            calibration,
            self.tokenizer if calibration.tokens is None else None,
            self.calibration_texts,
            length=calibration.sequence_length,
            samples=samples,
            name=f"the calibration text {describe_source(calibration)}",
            embeddings=self.embeddings,
        )

    @cached_property
    def calibration_fingerprint(self) -> str:
        """Changes with the calibration texts and their windows."""
        calibration = self.config.calibration
        if calibration.synthetic:
            return synthetic_fingerprint(calibration.samples, calibration.sequence_length, self.config.study.seed)
        images = [self.calibration_windows.tobytes()] if self.source.task.in_parts else []
        return fingerprint(calibration.samples, calibration.sequence_length, *self.calibration_texts, *images)

    @cached_property
    def store(self) -> ReferenceStore:
        """References on disk."""
        from autotune.evaluation.stores import ReferenceStore

        return ReferenceStore(self.cache.references)

    @cached_property
    def statistics_cache(self) -> StatisticsCache:
        """Calibration statistics on disk."""
        from autotune.compression.calibration.statistics import StatisticsCache

        return StatisticsCache(self.cache.statistics)

    @cached_property
    def statistics(self) -> Statistics:
        """The calibration statistics, computed or read from the cache."""
        calibration = self.config.calibration
        windows = self.calibration_windows
        tokenizer = self.tokenizer if self.source.has_tokenizer else None
        self.stage(f"calibrating: {calibration.samples} windows of {calibration.sequence_length} tokens")
        with self.shared():
            return self.statistics_cache.get_or_collect(
                self.model,
                self.engine.activations,
                windows,
                model_fingerprint=self.source.fingerprint,
                inputs=lambda tokens: self.source.task.inputs(tokens, tokenizer, self.embeddings),
                depth="full" if self._depth is None else self._depth(self.engine),
                progress=lambda done, total: self.stage(f"calibrating: {done} of {total} windows"),
            )

    @cached_property
    def embeddings(self) -> Any:
        """The original's embeddings of tokens and images; None for a model that takes tokens."""
        return self.source.task.embeddings(self.source.path, "CPU", None)

    @cached_property
    def engine(self) -> Engine:
        """The compression engine over the layer bank."""
        from autotune.compression.engine import Engine

        with self.shared():
            engine = Engine(
                self.model,
                bank=self._bank(weights_in_memory=self._weights_in_memory),
                statistics=(lambda: self.statistics) if self.needs_calibration else None,
                gradients=self._gradients if self.needs_calibration else None,
                distil=self._distil if self.needs_calibration else None,
                model_fingerprint=self.source.fingerprint,
                targets=self.config.target,
                beside=self.source.beside,
            )
        check_memory(self.config.study.memory_limit, engine.sizes.original)
        return engine

    def _bank(self, *, weights_in_memory: bool = True) -> Bank:
        from autotune.compression.bank import Bank

        return Bank(self.cache.bank, limit=self.cache.limit, weights_in_memory=weights_in_memory)

    def _gradients(self) -> Mapping[str, Any]:
        """Measure the gradients at the outputs of weights; see `distillation.output_gradients`."""
        from autotune.distillation.distil import output_gradients

        inputs, memory = (self.model, self.engine.weights, self.calibration_windows), self.config.study.memory_limit
        with self.shared():
            return output_gradients(*inputs, bank=self._bank(), memory=available_memory(memory))

    def _distil(self, compressed: ov.Model, weights: Mapping[str, CompressedWeight]) -> None:
        """Train a compressed model on the calibration texts, in place; see `distillation.distil`."""
        from autotune.distillation.distil import distil

        limit = self.config.study.memory_limit
        outcome = distil(
            self.model,
            compressed,
            weights,
            self.training_windows,
            bank=self._bank(weights_in_memory=False),
            scratch=self.cache.distillation,
            memory=available_memory(None if limit is None else limit - own_memory()),
            stage=self.stage,
        )
        self.distillation_notes = (outcome.describe(),)

    def check_distillation(self) -> None:
        """Raise PlanError if the model cannot be distilled, on this machine or without calibration texts."""
        from autotune.distillation.distil import check

        if not self.source.task.distillable:
            raise PlanError(
                f"distillation trains the logits of causal language models, and {self.config.model} is for "
                f"{self.source.task.name}; remove distillation"
            )
        if not self.needs_calibration:
            raise PlanError("distillation trains on a calibration text; give one, or remove distillation")
        limit = self.config.study.memory_limit
        check(self.model, self.training_windows, available_memory(limit), self.cache.distillation)

    def plan(self, settings: Settings) -> Plan:
        """Resolve settings to a plan; a budget is allocated by measured errors.

        Raises:
            PlanError: the settings cannot be used, with or without this model.
        """
        if settings.allocation == "candidate":
            from autotune.models.given import read_given

            found, remote = self.config.candidate(settings.candidate), self.config.trust_remote_code
            options: dict[str, Any] = {"trust_remote_code": remote, "task": self.source.task.spec}
            return read_given(found.model, self.engine, self.config.target, self.cache, **options)
        if settings.distillation:
            self.check_distillation()
        if settings.budget is None:
            return self.engine.plan(settings)
        return replace(self.planner.plan(settings.budget), distilled=settings.distillation)

    @property
    def planner(self) -> BudgetPlanner:
        """The planner of the study's budgets; the first session that needs it measures the errors for all."""
        if isinstance(self._planner, Exception):
            raise self._planner
        return self._planner

    @cached_property
    def _planner(self) -> BudgetPlanner | Exception:
        """The planner, or the error of its measurements, which are not repeated for every budget."""
        from autotune.study.trials.budget_planner import open_planner

        try:
            with self.shared():
                return open_planner(self.measuring_inputs, self.config, self.stage)
        except (AutotuneError, RuntimeError) as error:
            return error

    @property
    def measuring_inputs(self) -> MeasuringInputs:
        """Inputs of the measurements for an allocation of formats."""
        from autotune.allocation.probe import MeasuringInputs

        model, runtime = (self.engine, self.source, lambda: self.tokenizer, self.cache), self.config.runtime
        return MeasuringInputs(*model, runtime.device, runtime.ov_config)
