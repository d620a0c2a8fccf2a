"""One compression or one evaluation without a study: `autotune compress` and `autotune evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import ConfigError, PlanError, UsageError
from autotune.study.export import Produced, check_empty, write_model
from autotune.study.model_session import ModelSession
from autotune.study.session import Session

if TYPE_CHECKING:
    from autotune.allocation.allocator import Allocator, Point
    from autotune.common.cache import Cache
    from autotune.compression.calibration.calibrate import Depth
    from autotune.compression.engine import Engine
    from autotune.compression.settings import Settings
    from autotune.config.config import Config
    from autotune.config.sections import Calibration
    from autotune.evaluation import Measurement

__all__ = ["Stage", "compress", "compress_to_size", "evaluate", "evaluation_config", "open_model"]

Stage = Callable[[str], None]


def compress(
    model: str,
    out: Path,
    settings: Settings,
    *,
    calibration: Calibration | None,
    cache: Cache,
    stage: Stage,
    trust_remote_code: bool = False,
) -> Produced:
    """Compress one model into a new folder.

    Args:
        model: hub id, Hugging Face folder or OpenVINO folder.
        out: a folder that does not exist yet or is empty.
        settings: of the compression.
        calibration: texts for the settings that look at activations; None if there is none.
        cache: stores exports, statistics and variants.
        stage: receives progress messages.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UsageError: `out` is not empty.
        ConfigError, PrerequisiteError: the model or the text cannot be loaded.
        PlanError: the settings contradict each other, or do not fit this model.
    """
    check_empty(out)
    for problem in settings.problems():
        raise PlanError(f"--{problem.key.replace('_', '-')}: {problem.message}")
    session = open_model(
        model,
        calibration=calibration,
        cache=cache,
        stage=stage,
        trust_remote_code=trust_remote_code,
        depth=lambda engine: engine.depth(settings),
    )
    plan = session.engine.plan(settings)
    stage("compressing")
    record = {"settings": session.engine.resolve(settings).as_dict()}
    return write_model(session.engine, plan, session.source, out, record)


def compress_to_size(
    model: str,
    out: Path,
    max_size: int,
    *,
    text: Path,
    calibration: Calibration | None,
    ignored_scope: Sequence[str] = (),
    small: Sequence[str] = (),
    runtime_compressed: bool = True,
    cache: Cache,
    stage: Stage,
    trust_remote_code: bool = False,
) -> Produced:
    """Compress one model to the most accurate one of at most `max_size` bytes.

    Args:
        model: hub id, Hugging Face folder or OpenVINO folder.
        out: a folder that does not exist yet or is empty.
        max_size: of `openvino_model.bin`, in bytes.
        text: on which divergences from the original are measured; not the calibration text.
        calibration: texts for GPTQ and output errors; None is plain rounding.
        ignored_scope: weights to leave alone.
        small: ``int2``, ``int3``: formats of fewer than 4 bits that may be used.
        runtime_compressed: use only formats that the CPU keeps compressed after loading.
        cache: stores exports, statistics, references, variants and errors.
        stage: receives progress messages.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UsageError: `out` is not empty.
        ConfigError, PrerequisiteError: the model or a text cannot be loaded.
        PlanError: no model that small can be made.
    """
    from autotune.allocation.allocator import open_allocator
    from autotune.allocation.choices import default_settings, make_menus
    from autotune.allocation.probe import FULL, SHORT

    check_empty(out)
    if not text.is_file():
        raise UsageError(f"--text: {text} does not exist; name a UTF-8 text file")
    session = open_model(model, calibration=calibration, cache=cache, stage=stage, trust_remote_code=trust_remote_code)
    engine = session.engine
    settings = default_settings(data_aware=calibration is not None, ignored_scope=tuple(ignored_scope), small=small)
    menus = make_menus(engine, settings, runtime_compressed=runtime_compressed)
    menus.check(max_size, engine)
    inputs = session.measuring_inputs
    short, full = (inputs.texts({"path": text, **windows}) for windows in (SHORT, FULL))
    with open_allocator(inputs, menus, short=short, full=full, stage=stage) as allocator:
        point = allocator.best(max_size)
    stage("compressing")
    record = {"allocation": _record(allocator, point, max_size)}
    return write_model(engine, point.plan, session.source, out, record)


def open_model(
    model: str,
    *,
    calibration: Calibration | None,
    cache: Cache,
    stage: Stage,
    trust_remote_code: bool = False,
    depth: Callable[[Engine], Depth] | None = None,
) -> ModelSession:
    """Open a model for one compression; the calibration texts are read at once, statistics when they are needed.

    Args and errors as for `compress`; `depth` returns the depth of the calibration statistics.
    """
    from autotune.config.config import Config
    from autotune.config.sections import CacheOptions

    # Not validated: errors should name the command line's options rather than keys of a model.yaml.
    options: dict[str, Any] = {} if calibration is None else {"calibration": calibration}
    options["cache"] = CacheOptions.model_construct(directory=cache.directory, limit=cache.limit)
    config = Config.model_construct(model=model, trust_remote_code=trust_remote_code, **options)
    calibrated = calibration is not None
    session = ModelSession(config, stage, calibrated=calibrated, depth=depth, weights_in_memory=False)
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
    *, file: Path | None, reference: str | None, names: Sequence[str] | None, options: Mapping[str, Mapping[str, Any]]
) -> Config:
    """Make the configuration of an evaluation: a study's file, or defaults, overridden by the command line's options.

    Args:
        file: a model.yaml, or None.
        reference: the original; None is the file's model.
        names: the evaluators to use; None is all of the file, or similarity and perplexity.
        options: evaluator -> its options; None stands for an option that is not given.

    Raises:
        UsageError: neither file nor reference, or an option for an evaluator that is not used.
        ConfigError: an unknown evaluator or a wrong option.
    """
    from pydantic import ValidationError

    from autotune.common.validation import from_validation
    from autotune.common.yaml import dotted
    from autotune.config.config import DEFAULT_EVALUATORS, Config, load_config

    if file is None and reference is None:
        raise UsageError("name the original by --reference MODEL, or a study's file by --config model.yaml")
    data: dict[str, Any] = {} if file is None else load_config(file).as_dict()
    available = data.get("evaluators") or DEFAULT_EVALUATORS
    chosen = {name: dict(available.get(name, {})) for name in names or available}
    for name, values in options.items():
        given = {key: value for key, value in values.items() if value is not None}
        if given and name not in chosen:
            option = next(iter(given)).replace("_", "-").replace("path", "text")
            raise UsageError(f"--{option} belongs to the evaluator {name}, which is not among {', '.join(chosen)}")
        if "path" in given or "synthetic" in given:
            for key in ("path", "synthetic", "dataset", "name", "split", "column"):
                chosen[name].pop(key, None)
        if name in chosen:
            chosen[name].update(given)
    data = {key: data[key] for key in ("model", "runtime", "cache", "trust_remote_code") if key in data}
    data["evaluators"] = chosen
    if reference is not None:
        data["model"] = reference
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first, *_ = from_validation(error, Config)
        raise ConfigError(first.message, key=dotted(first.path)) from error


def evaluate(model: str, config: Config, *, stage: Stage) -> dict[str, Measurement]:
    """Score one model against the original of `config` with its evaluators.

    Args:
        model: hub id, Hugging Face folder or OpenVINO folder.
        config: names the original, the evaluators with their options, the runtime and the cache.
        stage: receives progress messages.

    Returns:
        Metric -> measurement, in the order of the evaluators.
    """
    from autotune.models.source import MODEL_FILE, resolve_model

    session = Session(config, stage)
    _ = session.evaluators  # a wrong option is reported before anything is loaded
    folder = Path(model).expanduser()
    if not (folder / MODEL_FILE).is_file() and folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds neither {MODEL_FILE} nor config.json, so there is no model to score")
    candidate = resolve_model(model, cache=session.cache, trust_remote_code=config.trust_remote_code)
    return session.scorer.model(candidate.read())
