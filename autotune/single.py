"""One compression or one evaluation, without a study: what `autotune compress` and `evaluate` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from autotune.common.cache import Cache
    from autotune.compression.calibration.calibrate import Depth
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan
    from autotune.compression.settings import Settings
    from autotune.config.config import Config
    from autotune.config.sections import Calibration
    from autotune.evaluation import IntArray, Measurement
    from autotune.models.source import SourceModel

__all__ = [
    "Produced",
    "Stage",
    "check_empty",
    "compress",
    "evaluate",
    "evaluation_config",
    "open_engine",
    "write_model",
]

Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Produced:
    """A compressed model on disk.

    Attributes:
        folder: the complete model folder.
        plan: what was done to every weight.
        original_footprint: bytes of the original's `openvino_model.bin`.
        trial: the trial whose model it is, None without a study.
        settings: as they were asked for, defaults resolved.
    """

    folder: Path
    plan: Plan
    original_footprint: int
    trial: int | None = None
    settings: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain data for `--json`; the whole plan is in the folder's `autotune.json`."""
        plan = {key: value for key, value in self.plan.as_dict().items() if key != "variants"}
        trial = {} if self.trial is None else {"trial": self.trial}
        return {"folder": str(self.folder), **trial, "original_footprint": self.original_footprint, **plan}


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
        settings: what to do.
        calibration: texts for the settings that look at activations; None if there is none.
        cache: where exports, statistics and variants are kept.
        stage: is told what happens.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UsageError: `out` is not empty.
        ConfigError, PrerequisiteError: the model or the text cannot be had.
        PlanError: the settings do not fit together, or not this model.
    """
    from autotune.errors import PlanError

    check_empty(out)
    for problem in settings.problems():
        raise PlanError(f"--{problem.key.replace('_', '-')}: {problem.message}")
    source, engine = open_engine(
        model,
        calibration=calibration,
        cache=cache,
        stage=stage,
        trust_remote_code=trust_remote_code,
        depth=lambda engine: engine.depth(settings),
    )
    plan = engine.plan(settings)
    stage("compressing")
    return write_model(engine, plan, source, out, {"settings": engine.resolve(settings).as_dict()})


def open_engine(
    model: str,
    *,
    calibration: Calibration | None,
    cache: Cache,
    stage: Stage,
    trust_remote_code: bool,
    depth: Callable[[Engine], Depth] = lambda engine: "full",
) -> tuple[SourceModel, Engine]:
    """A model and its engine, which calibrates when statistics are first needed; texts are read at once.

    Args and errors as for `compress`; `depth` is that of the calibration, if there will be one.
    """
    from autotune.compression.bank import Bank
    from autotune.compression.calibration.statistics import StatisticsCache
    from autotune.compression.engine import Engine
    from autotune.evaluation.texts.sources import read_texts
    from autotune.models.source import resolve_model

    texts = [] if calibration is None or calibration.synthetic else read_texts(calibration)
    stage(f"loading {model}")
    source = resolve_model(model, cache=cache, trust_remote_code=trust_remote_code)
    original = source.read()

    def statistics() -> Any:
        assert calibration is not None
        windows = _windows(calibration, texts, source, original, cache, stage)
        stage(f"calibrating on {len(windows)} windows of {calibration.sequence_length} tokens")
        return StatisticsCache(cache.statistics).get_or_collect(
            original,
            engine.activations,
            windows,
            model_fingerprint=source.fingerprint,
            depth=depth(engine),
        )

    engine = Engine(
        original,
        bank=Bank(cache.bank, limit=cache.limit, weights_in_memory=False),
        statistics=None if calibration is None else statistics,
        model_fingerprint=source.fingerprint,
    )
    return source, engine


def _windows(
    calibration: Calibration, texts: Sequence[str], source: SourceModel, original: Any, cache: Cache, stage: Stage
) -> IntArray:
    """The calibration text as tokens, int64 [n, T]; written by the model now where that is what is asked for."""
    from autotune.evaluation.stores import ReferenceStore
    from autotune.evaluation.texts.sources import describe_source, token_windows
    from autotune.evaluation.texts.synthetic import cached_windows
    from autotune.models.runtime.language_model import OpenVINOLanguageModel, end_token_ids

    samples, length = calibration.samples, calibration.sequence_length
    tokenizer = source.tokenizer()
    if not calibration.synthetic:
        name = describe_source(calibration)
        return token_windows(tokenizer, texts, sequence_length=length, samples=samples, name=name)
    stage(f"the model writes {samples} windows of {length} tokens")
    return cached_windows(
        ReferenceStore(cache.references),
        lambda: OpenVINOLanguageModel(original, tokenizer, eos_token_ids=end_token_ids(source.path, tokenizer)),
        samples=samples,
        sequence_length=length,
        seed=0,
        source=source,
        ov_config={},
    )


def write_model(engine: Engine, plan: Plan, source: SourceModel, out: Path, about: Mapping[str, Any]) -> Produced:
    """Apply a plan and write the complete folder; `about` goes into its `autotune.json`."""
    from autotune import __version__
    from autotune.models.source import save_model

    record = {
        "autotune": __version__,
        "model": {"name": source.name, "fingerprint": source.fingerprint},
        **about,
        "plan": plan.as_dict(),
    }
    save_model(engine.apply(plan), source, out, record=record)
    return Produced(out, plan, engine.sizes.original)


def check_empty(out: Path) -> None:
    """Refuse a folder that has something in it.

    Raises:
        UsageError: `out` is a file or a folder that is not empty.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} exists already and is not an empty folder; name a new one")


def evaluation_config(
    *, file: Path | None, reference: str | None, names: Sequence[str] | None, options: Mapping[str, Mapping[str, Any]]
) -> Config:
    """What to score by: a study's file, or defaults, with the command line's options laid over them.

    Args:
        file: a model.yaml, or None.
        reference: the original; None is the file's model.
        names: the evaluators to use; None is all of the file, or similarity and perplexity.
        options: evaluator -> its options; None values are not given.

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
    known = data.get("evaluators") or DEFAULT_EVALUATORS
    chosen = {name: dict(known.get(name, {})) for name in names or known}
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
        stage: is told what happens.

    Returns:
        Metric -> measurement, in the order of the evaluators.
    """
    from autotune.models.source import MODEL_FILE, resolve_model
    from autotune.study.session import prepare

    prepared = prepare(config, stage)
    _ = prepared.evaluators  # a wrong option is said before anything is loaded
    folder = Path(model).expanduser()
    if not (folder / MODEL_FILE).is_file() and folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds neither {MODEL_FILE} nor config.json, so there is no model to score")
    candidate = resolve_model(model, cache=prepared.cache, trust_remote_code=config.trust_remote_code)
    return prepared.scorer.model(candidate.read())
