"""One compression or one evaluation without a study: `autotune.compress` and `autotune.evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.compression.targets import fitted, target_problems
from autotune.errors import ConfigError, PlanError, UsageError
from autotune.evaluation.scores import Scores
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

SOURCE_KEYS = {"path", "synthetic", "dataset", "name", "split", "column", "texts", "tokens"}
"""Options of a text source: one that is given replaces all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class CompressedModel:
    """A compressed model in memory; a notebook shows its size and how many weights have which format.

    Attributes:
        model: the compressed `ov.Model`; constants that did not change are shared with the original.
        settings: settings of the compression, defaults resolved; with a size, how the plan was found.
        source: the original model.
        original_footprint: bytes of the original's `openvino_model.bin`.
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
        """Bytes of `openvino_model.bin`."""
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
        config = evaluation_config(file=None, reference=IN_MEMORY, names=list(evaluators), options=evaluators)
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


def read_settings(arguments: Mapping[str, Any]) -> Settings:
    """Read the settings among the arguments of `autotune.compress`.

    Raises:
        UsageError: an argument has a wrong type, or a codebook cannot be read.
    """
    from autotune.compression.formats.table import parse_codebook
    from autotune.compression.settings import SETTINGS, Settings

    types: dict[str, Any] = {"switch": bool, "integer": Integral, "number": Real, "text": str, "list": Iterable}
    values = {name: arguments[name] for name in SETTINGS}
    for name, info in SETTINGS.items():
        if name == "codebook" and isinstance(values[name], str):
            try:
                values[name] = parse_codebook(values[name])
            except ValueError as error:
                raise UsageError(f"`codebook`: {error}") from None
        value = values[name]
        fits = isinstance(value, types[info.kind])
        fits = fits and isinstance(value, (bool, str)) == (info.kind in ("switch", "text"))  # True is an Integral
        if not fits and not (value is None and info.default is None):
            raise UsageError(f"`{name}` must be a {info.kind}, got {value!r}")
        if info.kind == "list":
            values[name] = tuple(value)
    return Settings(**values)


def read_size(
    settings: Settings, max_size: int | str | None, evaluation: Any, allow: Sequence[str], runtime_compressed: bool
) -> int | None:
    """Read a size limit in bytes, and refuse arguments that exclude each other with it, or without one.

    Raises:
        UsageError: the limit cannot be read, or arguments exclude each other.
    """
    from autotune.common.units import parse_bytes

    if max_size is None:
        if allow or not runtime_compressed or evaluation is not None:
            raise UsageError(
                "`evaluation`, `allow` and `runtime_compressed=False` need `max_size`; without it use `mode`"
            )
        return None
    try:
        limit = parse_bytes(max_size)
    except ValueError as error:
        raise UsageError(f"`max_size`: {error}") from error
    if set(allow) - {"int2", "int3"}:
        raise UsageError(f"`allow` must be int2 or int3, got {', '.join(allow)}")
    if "int3" in allow and runtime_compressed:
        raise UsageError("`allow` int3: the CPU expands it when it loads a model; add `runtime_compressed=False`")
    if evaluation is None:
        raise UsageError("`max_size` measures the error of each format and needs a text for it: add `evaluation`")
    default = type(settings)(ignored_scope=settings.ignored_scope, distillation=settings.distillation)
    for name in type(settings).__dataclass_fields__:
        if getattr(settings, name) != getattr(default, name):
            raise UsageError(f"`max_size` chooses format and algorithms of each weight; leave out `{name}`")
    return limit


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
        max_size: of `openvino_model.bin`, in bytes.
        text: on which divergences from the original are measured, as options of the evaluator ``perplexity``; not the
            calibration text.
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
    from autotune.allocation.probe import FULL, SHORT

    check_empty(output)
    if options.distillation:
        session.check_distillation()
    engine, data_aware = session.engine, session.needs_calibration
    settings = default_settings(data_aware=data_aware, ignored_scope=options.ignored_scope, small=small)
    menus = make_menus(engine, settings, runtime_compressed=runtime_compressed)
    menus.check(max_size, engine)
    inputs = session.measuring_inputs
    short, full = (inputs.texts(session.fitted({**text, **windows})) for windows in (SHORT, FULL))
    with open_allocator(inputs, menus, short=short, full=full, stage=session.stage) as allocator:
        point = allocator.best(max_size)
        record = {"allocation": _record(allocator, point, max_size)}
    return _finish(session, replace(point.plan, distilled=options.distillation), record, output)


def _finish(session: ModelSession, plan: Plan, record: Mapping[str, Any], output: Path | None) -> CompressedModel:
    session.stage("compressing")
    engine = session.engine
    settings = record.get("settings") or record["allocation"]
    model = engine.apply(plan)
    targets = session.config.target
    compressed = CompressedModel(model, settings, session.source, engine.sizes.original, plan, record, targets=targets)
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

    Raises:
        ConfigError, PrerequisiteError: a calibration text cannot be read.
    """
    from autotune.config.config import Config
    from autotune.config.sections import CacheOptions

    # Not validated: errors should name the arguments of the call rather than keys of a model.yaml.
    options: dict[str, Any] = {} if calibration is None else {"calibration": calibration}
    options["target"] = targets
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

    def describe(one: Point) -> dict[str, Any]:
        return {
            "footprint": one.plan.footprint,
            "kl_divergence": {"value": one.measured.value, "stderr": one.measured.stderr},
            "predicted": one.predicted,
        }

    uniform = [describe(one) for one in allocator.points if one.uniform and one.plan.footprint <= max_size]
    return {
        "max_size": max_size,
        **describe(point),
        "uniform": uniform,
        "verified_plans": len(allocator.points),
        "token_forwards": allocator.token_forwards,
    }


def evaluation_config(
    *,
    file: Path | None,
    reference: str | None,
    names: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]],
    cache: Path | None = None,
    trust_remote_code: bool = False,
) -> Config:
    """Make the configuration of an evaluation: a study's file, or defaults, overridden by the command line's options.

    Args:
        file: a model.yaml, or None.
        reference: the original; None is the file's model.
        names: the evaluators to use; None is all of the file, or similarity and perplexity.
        options: evaluator -> its options; None means that an option is not given.
        cache: folder for what is computed once; None is the file's, or the default.
        trust_remote_code: allow code that comes with the original to run, in addition to the setting in the file.

    Raises:
        UsageError: neither file nor reference, or an option for an evaluator that is not used.
        ConfigError: an unknown evaluator or a wrong option.
    """
    from pydantic import ValidationError

    from autotune.common.validation import from_validation
    from autotune.common.yaml import dotted
    from autotune.config.config import DEFAULT_EVALUATORS, Config, load_config

    if file is None and reference is None:
        raise UsageError("give the original as `reference`, or a model.yaml that names it as `config`")
    data: dict[str, Any] = {} if file is None else load_config(file).as_dict()
    available = data.get("evaluators") or DEFAULT_EVALUATORS
    chosen = {name: dict(available.get(name, {})) for name in names or available}
    for name, values in options.items():
        given = {key: value for key, value in values.items() if value is not None}
        if given and name not in chosen:
            option = next(iter(given))
            raise UsageError(f"`{option}` belongs to the evaluator {name}, which is not among {', '.join(chosen)}")
        if not SOURCE_KEYS.isdisjoint(given):
            chosen[name] = {key: value for key, value in chosen[name].items() if key not in SOURCE_KEYS}
        if name in chosen:
            chosen[name].update(given)
    data = {key: data[key] for key in ("model", "runtime", "cache", "trust_remote_code") if key in data}
    data["evaluators"] = chosen
    if reference is not None:
        data["model"] = reference
    if cache is not None:
        data["cache"] = {**data.get("cache", {}), "directory": str(cache)}
    if trust_remote_code:
        data["trust_remote_code"] = True
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first, *_ = from_validation(error, Config)
        raise ConfigError(first.message, key=dotted(first.path)) from error


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
    from autotune.models.source import MODEL_FILE, resolve_model

    session = Session(config, stage)
    _ = session.evaluators  # a wrong option is reported before anything is loaded
    if source is not None:
        session.source = source
    if not isinstance(model, (str, Path)):
        return session.scores_of(model.model if isinstance(model, CompressedModel) else model)
    folder = Path(model).expanduser()
    if not (folder / MODEL_FILE).is_file() and folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds neither {MODEL_FILE} nor config.json, so there is no model to score. Name a model's folder"
        )
    candidate = resolve_model(str(model), cache=session.cache, trust_remote_code=config.trust_remote_code)
    return session.scores_of(candidate.read())
