"""One compression or one evaluation without a study: `autotune.compress` and `autotune.evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.compression.targets import conflict, fitted, target_problems
from autotune.config.arguments import evaluation_config
from autotune.errors import ConfigError, PlanError
from autotune.evaluation.scores import Scores
from autotune.models.intake import fit_window
from autotune.study.export import SavedModel, check_empty, write_model
from autotune.study.model_session import ModelSession
from autotune.study.session import Session

if TYPE_CHECKING:
    import openvino as ov
    import pandas as pd

    from autotune.allocation.allocator import Allocator, Point
    from autotune.compression.calibration.calibrate import Depth
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan
    from autotune.compression.settings import Settings
    from autotune.config.config import Config
    from autotune.config.sections import Calibration, Device
    from autotune.models.source import SourceModel

Stage = Callable[[str], None]

IN_MEMORY = "in-memory/model"
"""Model id in a configuration for a model in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class CompressedModel:
    """A compressed model in memory; a notebook shows its size and how many weights have which format.

    Attributes:
        model: the compressed `ov.Model`; constants that did not change are shared with the original.
        settings: settings of the compression, defaults resolved; with a size, how the plan was found.
        source: the original model.
        original_footprint: bytes of the original's weight files.
        saved: the folder it was written to; None if no `output` was given.
        targets: the devices that it must run on.

    Example:
        >>> import autotune
        >>> small = autotune.compress("examples/demo/model", mode="int4_asym", group_size=64, progress=False)
        >>> small
        CompressedModel(examples/demo/model: 2,501,061 bytes, 31.8% of the original, 6.29x smaller than float32)
        >>> small.plan["mode"].value_counts().to_dict()
        {'int4_asym': 28, 'int8_asym': 2}
        >>> saved = small.save("models/demo-int4")
    """

    model: ov.Model
    settings: Mapping[str, Any]
    source: SourceModel = field(repr=False)
    original_footprint: int
    _plan: Plan = field(repr=False)
    _record: Mapping[str, Any] = field(repr=False)
    saved: SavedModel | None = None
    targets: tuple[str, ...] = ()

    @property
    def footprint(self) -> int:
        """Bytes of the weight files: `openvino_model.bin`, or those of all IRs."""
        return self._plan.footprint

    @property
    def compression_rate(self) -> float:
        """Size in float32 divided by the footprint."""
        return self._plan.compression_rate

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was adjusted or not applied, with the weight's name."""
        return self._plan.notes

    @property
    def plan(self) -> pd.DataFrame:
        """Variant of each weight: one row a weight, in the order of the model; see `results.plans.plan_frame`."""
        from autotune.results.plans import plan_frame

        return plan_frame(self._plan.as_dict())

    def save(self, folder: str | Path) -> SavedModel:
        """Write the complete model folder: model, configuration, tokenizer and `autotune.json`.

        Raises:
            UsageError: the folder is not empty.
            CompressionError: it cannot be written, or does not fit a target device.
        """
        parts = (self.model, self._plan, self.source, Path(folder), self.original_footprint, self._record)
        return write_model(*parts, self.targets)

    def evaluate(self, evaluators: Mapping[str, Mapping[str, Any]], *, stage: Stage = lambda text: None) -> Scores:
        """Score the model against its original.

        Args:
            evaluators, stage: as for `autotune.evaluate`; receives progress messages.
        """
        config = evaluation_config(
            file=None, reference=IN_MEMORY, names=list(evaluators), options=evaluators, task=self.source.task.spec
        )
        return evaluate(self, config, source=self.source, stage=stage)

    def __repr__(self) -> str:
        share = f"{100 * self.footprint / self.original_footprint:.1f}% of the original"
        rate = f"{self.compression_rate:.2f}x smaller than float32"
        return f"CompressedModel({self.source.name}: {self.footprint:,} bytes, {share}, {rate})"

    def _repr_html_(self) -> str:
        from html import escape

        keys = ["mode", "group_size", "awq", "scale_estimation", "gptq", "lora_rank"]
        counts = self.plan.groupby(keys, sort=False, dropna=False).size().rename("weights").reset_index()
        return f"<p>{escape(repr(self))}</p>{counts.to_html(index=False)}"


def compress(session: ModelSession, settings: Settings, *, output: Path | None = None) -> CompressedModel:
    """Compress a model by uniform settings.

    Raises:
        UsageError: `output` is not empty.
        PlanError: the settings contradict each other, or do not fit this model or its target devices.
    """
    targets = session.config.target
    for problem in [*settings.problems(), *target_problems(fitted(settings, targets), targets)]:
        raise PlanError(f"`{problem.key}`: {problem.message}")
    check_empty(output)
    plan = session.plan(settings)
    return _finish(session, plan, {"settings": session.engine.resolve(settings).as_dict()}, output)


def compress_to_size(
    session: ModelSession,
    max_size: int,
    *,
    text: Mapping[str, Any],
    options: Settings,
    small: Sequence[str] = (),
    runtime_compressed: bool = True,
    output: Path | None = None,
) -> CompressedModel:
    """Compress a model to the most accurate one of at most `max_size` bytes.

    Args:
        session: the opened model. Without calibration texts, weights are rounded plainly.
        max_size: largest footprint, in bytes.
        text: on which divergences from the original are measured, as options of the evaluator of the task's loss;
            not the calibration text.
        options: settings of which `ignored_scope` and `distillation` count.
        small: ``int2``, ``int3``: formats of fewer than 4 bits that may be used.
        runtime_compressed: use only formats that the CPU keeps compressed after loading.
        output: where to write the model; checked before any work.

    Raises:
        UsageError: `output` is not empty.
        PlanError: no model that small can be made, or it cannot be distilled.
    """
    from autotune.allocation.allocator import open_allocator
    from autotune.allocation.choices import default_settings, make_menus

    check_empty(output)
    mixed = conflict("allocation", "budget", session.config.target)
    if mixed is not None:
        raise PlanError(
            f"`max_size` chooses a format for each weight, and the target {mixed[0]} takes one format for all layers; "
            "leave out `max_size`, and set `mode` and `group_size`"
        )
    if options.distillation:
        session.check_distillation()
    engine, data_aware = session.engine, session.needs_calibration
    settings = default_settings(data_aware=data_aware, ignored_scope=options.ignored_scope, small=small)
    menus = make_menus(engine, settings, runtime_compressed=runtime_compressed)
    menus.check(max_size, engine)
    inputs = session.measuring_inputs
    loss = session.source.task.loss
    positions = session.source.positions
    short, full = (inputs.texts(fit_window({**text, **part}, positions)) for part in (loss.short, loss.full))
    with open_allocator(inputs, menus, short=short, full=full, stage=session.stage) as allocator:
        point = allocator.best(max_size)
        record = {"allocation": _record(allocator, point, max_size)}
    return _finish(session, replace(point.plan, distilled=options.distillation), record, output)


def _finish(session: ModelSession, plan: Plan, record: Mapping[str, Any], output: Path | None) -> CompressedModel:
    session.stage("compressing")
    engine = session.engine
    settings = record.get("settings") or record["allocation"]
    model = engine.apply(plan)
    plan = replace(plan, notes=(*plan.notes, *session.distillation_notes))
    original, targets = engine.sizes.original, session.config.target
    compressed = CompressedModel(model, settings, session.source, original, plan, record, targets=targets)
    return compressed if output is None else replace(compressed, saved=compressed.save(output))


def open_model(
    source: SourceModel | str,
    *,
    calibration: Calibration | None,
    cache: Path | None,
    stage: Stage,
    trust_remote_code: bool = False,
    depth: Callable[[Engine], Depth] | None = None,
    targets: tuple[Device, ...] = (),
    task: str | None = None,
) -> ModelSession:
    """Open a model for one compression; the calibration texts are read at once, statistics when they are needed.

    Args:
        source: hub id, Hugging Face folder or OpenVINO folder, or a model in memory.
        calibration: texts for the settings that look at activations; None if there is none.
        cache: folder for exports, statistics, references, variants and errors; None is the default.
        stage: receives progress messages.
        trust_remote_code: whether code that comes with the model may run.
        depth: returns the depth of the calibration statistics.
        targets: the devices that compressed models must run on.
        task: what the model does; None finds it from the model.

    Raises:
        ConfigError, PrerequisiteError: a calibration text cannot be read.
    """
    from autotune.config.config import Config
    from autotune.config.sections import CacheOptions

    # Not validated: errors should name the arguments of the call rather than keys of a model.yaml.
    options: dict[str, Any] = {} if calibration is None else {"calibration": calibration}
    options["target"], options["task"] = targets, task
    options["cache"] = CacheOptions.model_construct(directory=cache)
    name = source if isinstance(source, str) else source.name
    config = Config.model_construct(model=name, trust_remote_code=trust_remote_code, **options)
    calibrated = calibration is not None
    session = ModelSession(config, stage, calibrated=calibrated, depth=depth, weights_in_memory=False)
    if not isinstance(source, str):
        session.source = source
    if calibrated:
        _ = session.calibration_texts
    return session


def _record(allocator: Allocator, point: Point, max_size: int) -> Mapping[str, Any]:
    """Describe how the plan was found, for `autotune.json`."""
    loss = allocator.loss

    def describe(one: Point) -> dict[str, Any]:
        return {
            "footprint": one.plan.footprint,
            loss.metric: {"value": loss.score(one.measured.value), "stderr": one.measured.stderr},
            "predicted": loss.score(one.predicted),
        }

    uniform = [describe(one) for one in allocator.points if one.uniform and one.plan.footprint <= max_size]
    return {
        "max_size": max_size,
        **describe(point),
        "uniform": uniform,
        "verified_plans": len(allocator.points),
        "token_forwards": allocator.token_forwards,
    }


def evaluate(
    model: str | Path | ov.Model | CompressedModel, config: Config, *, source: SourceModel | None = None, stage: Stage
) -> Scores:
    """Score one model against the original of `config` with its evaluators.

    Args:
        model: hub id, folder, or a model in memory.
        config: names the original, the evaluators with their options, the runtime and the cache.
        source: the original, if it is opened already; `config` then names it `IN_MEMORY`.
        stage: receives progress messages.
    """
    from autotune.models.companions import MODEL_FILE, main_file
    from autotune.models.source import resolve_model

    session = Session(config, stage, calibrated=False)
    _ = session.evaluators  # a wrong option is reported before anything is loaded
    if source is not None:
        session.source = source
    _ = session.source  # the original is checked before the other model is exported
    if not isinstance(model, (str, Path)):
        return session.scores_of(model.model if isinstance(model, CompressedModel) else model)
    folder = Path(model).expanduser()
    if not main_file(folder).is_file() and folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds neither {MODEL_FILE} nor config.json, so there is no model to score. Name a model's folder"
        )
    candidate = resolve_model(
        str(model),
        cache=session.cache,
        trust_remote_code=config.trust_remote_code,
        task=session.source.task.spec,
    )
    return session.scores_of(candidate.path)
