"""The Python API: everything that a command does, as functions and objects for scripts and notebooks.

All names are attributes of the package: ``import autotune; autotune.compress(...)``. Errors are those of `autotune.errors`, with
the texts that the command line shows. Nothing is printed to stdout; progress goes to stderr, or to a notebook's output.

Texts (``calibration``, ``evaluation``) are a path, a list of strings, ``{"dataset": ..., "split": ...}``, ``"synthetic"`` (the
model writes them), or token windows as an int64 array [n, T].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError

if TYPE_CHECKING:
    import openvino as ov
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

    from autotune.config.config import Config
    from autotune.evaluation.texts.sources import Texts
    from autotune.models.source import SourceModel
    from autotune.study.export import Reproduction
    from autotune.study.planning.dry_run import DryRun
    from autotune.study.run import StudyOutcome
    from autotune.study.single import CompressedModel, Scores
    from autotune.study.view import Study

    Callback = Callable[[optuna.Study, FrozenTrial], None]

__all__ = ["compare", "compress", "evaluate", "load_study", "plan", "reproduce", "search", "worker"]


def compress(
    model: str | Path | ov.Model,
    *,
    mode: str = "int8_asym",
    group_size: int | None = None,
    codebook: str | Sequence[float] = (),
    ratio: float = 1.0,
    backup_mode: str | None = None,
    sensitivity_metric: str | None = None,
    all_layers: bool = False,
    awq: bool = False,
    awq_data_free: bool = False,
    scale_estimation: bool = False,
    gptq: bool = False,
    gptq_act_order: bool = True,
    lora_correction: bool = False,
    lora_rank: int = 8,
    ignored_scope: Sequence[str] = (),
    group_size_fallback: str = "adjust",
    calibration: Texts | None = None,
    samples: int = 128,
    sequence_length: int = 512,
    max_size: int | str | None = None,
    evaluation: Texts | None = None,
    allow: Sequence[str] = (),
    runtime_compressed: bool = True,
    output: str | Path | None = None,
    tokenizer: Any = None,
    cache: str | Path | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> CompressedModel:
    """Compress the weights of one model.

    The settings have the names, defaults and meaning of NNCF's `compress_weights` and of model.yaml; see
    `compression.settings.Settings`. With `max_size` they are chosen for each weight by measured errors instead.

    Args:
        model: a Hugging Face id, a Hugging Face folder, an OpenVINO folder, or an `ov.Model` in memory. It is not changed.
        mode, group_size, codebook, ratio, backup_mode, sensitivity_metric, all_layers, awq, awq_data_free, scale_estimation,
            gptq, gptq_act_order, lora_correction, lora_rank, ignored_scope, group_size_fallback: settings of the compression.
        calibration: texts for the settings that look at activations.
        samples: calibration windows.
        sequence_length: tokens of each.
        max_size: largest size of `openvino_model.bin`, in bytes or as ``"90 MB"``.
        evaluation: texts on which divergences from the original are measured; needed with `max_size`, and other texts than
            `calibration`.
        allow: with `max_size`, formats of fewer than 4 bits that may be used: ``"int2"``, ``"int3"``.
        runtime_compressed: with `max_size`, use only formats that the CPU keeps compressed after loading.
        output: a new folder to write the model to; refused before any work if it is not empty.
        tokenizer: the `transformers` tokenizer of an `ov.Model`, if texts are needed.
        cache: folder for what is computed once; by default AUTOTUNE_CACHE or the user's cache folder.
        trust_remote_code: whether code that comes with the model may run.
        progress: show progress on stderr.

    Raises:
        UsageError: arguments that exclude each other, or an `output` that is not empty.
        PlanError: settings that contradict each other or do not fit the model; no model of `max_size` exists.
        ConfigError, PrerequisiteError: the model or a text cannot be read.

    Example:
        >>> import autotune
        >>> small = autotune.compress("examples/demo/model", mode="int4_asym", group_size=64, progress=False)
        >>> small.footprint
        2501061
    """
    from autotune.compression.formats.table import parse_codebook
    from autotune.compression.settings import Settings
    from autotune.config.config import calibration_texts
    from autotune.evaluation.texts.sources import text_source
    from autotune.study import single
    from autotune.study.progress import listening

    try:
        table = parse_codebook(codebook) if isinstance(codebook, str) else tuple(codebook)
    except ValueError as error:
        raise UsageError(f"codebook: {error}") from None
    settings = Settings(
        mode=mode,
        group_size=group_size,
        codebook=table,
        ratio=ratio,
        backup_mode=backup_mode,
        sensitivity_metric=sensitivity_metric,
        all_layers=all_layers,
        awq=awq,
        awq_data_free=awq_data_free,
        scale_estimation=scale_estimation,
        gptq=gptq,
        gptq_act_order=gptq_act_order,
        lora_correction=lora_correction,
        lora_rank=lora_rank,
        ignored_scope=tuple(ignored_scope),
        group_size_fallback=group_size_fallback,  # type: ignore[arg-type]
    )
    limit = None if max_size is None else _size(max_size)
    single.check_budget(settings, limit, evaluation, allow, runtime_compressed)
    written = None if output is None else Path(output)
    with listening(progress) as listener:
        session = single.open_model(
            _source(model, tokenizer),
            calibration=None if calibration is None else calibration_texts(calibration, samples, sequence_length),
            cache=None if cache is None else Path(cache),
            stage=listener.stage,
            trust_remote_code=trust_remote_code,
            depth=None if limit is not None else lambda engine: engine.depth(settings),
        )
        if limit is None or evaluation is None:
            return single.compress(session, settings, output=written)
        return single.compress_to_size(
            session,
            limit,
            text=text_source(evaluation),
            ignored_scope=settings.ignored_scope,
            small=tuple(allow),
            runtime_compressed=runtime_compressed,
            output=written,
        )


def evaluate(
    model: str | Path | ov.Model | CompressedModel,
    *,
    reference: str | Path | ov.Model | None = None,
    config: str | Path | None = None,
    evaluators: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    tokenizer: Any = None,
    cache: str | Path | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Scores:
    """Score one model against its original.

    Args:
        model: a Hugging Face id, a folder, an `ov.Model`, or what `compress` returned.
        reference: the original; by default that of `config`, or the one that a `CompressedModel` was made from.
        config: a model.yaml, whose original, evaluators and runtime are used.
        evaluators: names, or name -> options, e.g. ``{"perplexity": {"path": "text.txt", "samples": 16}}``; by default those
            of `config`, or similarity and perplexity.
        tokenizer: the tokenizer of a `reference` in memory.
        cache: folder for what is computed once; by default AUTOTUNE_CACHE or the user's cache folder.
        trust_remote_code: whether code that comes with the original may run.
        progress: show progress on stderr.

    Raises:
        UsageError: no reference is known, or an option belongs to an evaluator that is not used.
        ConfigError, PrerequisiteError: an unknown evaluator or a wrong option; a model or a text cannot be read.
    """
    from autotune.study import single
    from autotune.study.progress import listening

    names: Sequence[str] | None = None
    options: Mapping[str, Mapping[str, Any]] = {}
    if isinstance(evaluators, Mapping):
        names, options = list(evaluators), evaluators
    elif evaluators is not None:
        names = list(evaluators)
    if reference is None and config is None and isinstance(model, single.CompressedModel):
        reference = model.source.name
    in_memory = None if reference is None or isinstance(reference, (str, Path)) else reference
    settings = single.evaluation_config(
        file=None if config is None else Path(config),
        reference="the model in memory" if in_memory is not None else None if reference is None else str(reference),
        names=names,
        options=options,
        cache=None if cache is None else Path(cache),
        trust_remote_code=trust_remote_code,
    )
    with listening(progress) as listener:
        return single.evaluate(model, settings, reference=in_memory, tokenizer=tokenizer, stage=listener.stage)


def search(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    trials: int | None = None,
    timeout: float | str | None = None,
    workers: int | None = None,
    storage: str | None = None,
    output: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    start_from: str | Path | None = None,
    fresh: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Study:
    """Search for the front of accuracy against footprint; resume the study if it exists.

    Args:
        config: a model.yaml, its content as a dict (paths relative to the current folder), or an `autotune.Config`.
        trials: trials of the whole study, duplicates not counted.
        timeout: no further trial begins after this; seconds or ``"2h"``.
        workers: trials at the same time.
        storage: an Optuna storage URL instead of the folder's `study.db`.
        output: the study's folder.
        seed: of the sampler.
        overrides: ``a.b=c`` assignments, laid over the configuration.
        start_from: a study's folder, whose front is tried first.
        fresh: move an existing study aside and start anew.
        callbacks: called with (study, trial) after every trial, as those of `optuna.Study.optimize`.
        progress: show progress on stderr.

    Raises:
        ConfigError: anything wrong with the configuration.
        StudyError: the folder is in use, cannot be written, or holds a study of other inputs.
    """
    from autotune.study.progress import listening
    from autotune.study.run import run_search

    changes = [*overrides, *_changes(trials=trials, timeout=timeout, workers=workers, seed=seed)]
    loaded = _config(config, changes, output)
    with listening(progress) as listener:
        outcome = run_search(
            loaded,
            listener=listener,
            fresh=fresh,
            storage=storage,
            start_from=None if start_from is None else Path(start_from),
            callbacks=callbacks,
        )
    return load_study(outcome.folder, storage, outcome=outcome)


def worker(
    config: str | Path | Mapping[str, Any] | Config,
    storage: str,
    *,
    workers: int | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> StudyOutcome:
    """Join a running search from another process or machine, until the study has its trials.

    Args:
        config, workers, output, overrides, progress: as for `search`.
        storage: the Optuna storage URL of the search.

    Raises:
        StudyError: there is no such study, or it has other inputs.
    """
    from autotune.study.progress import listening
    from autotune.study.run import run_worker

    loaded = _config(config, [*overrides, *_changes(workers=workers)], output)
    with listening(progress) as listener:
        return run_worker(loaded, storage, listener=listener)


def plan(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    overrides: Sequence[str] = (),
    forecast: bool = True,
    progress: bool = True,
) -> DryRun:
    """Tell what a search would do: sizes to the byte, adjusted and invalid settings, time, memory and disk.

    Args:
        config, overrides, progress: as for `search`.
        forecast: time small pieces of the work to forecast all of it.

    Raises:
        ConfigError: anything wrong with the configuration.
    """
    from autotune.study.planning.dry_run import dry_run
    from autotune.study.progress import listening

    loaded = _config(config, overrides, None)
    with listening(progress) as listener:
        return dry_run(loaded, listener.stage, measure=forecast)


def load_study(folder: str | Path, storage: str | None = None, *, outcome: StudyOutcome | None = None) -> Study:
    """Read a finished or running study. Needs no OpenVINO.

    Args:
        folder: the study's folder.
        storage: an Optuna storage URL instead of the folder's `study.db`.
        outcome: how its search ended, if that is known.

    Raises:
        StudyError: there is no readable study.

    Example:
        >>> import autotune
        >>> study = autotune.load_study("reports/example")  # doctest: +SKIP
        >>> study.front[["mode", "footprint", "kl_divergence"]]  # doctest: +SKIP
    """
    from autotune.results.load import load_results
    from autotune.study.view import Study

    return Study(load_results(Path(folder), storage), Path(folder), storage, outcome)


def reproduce(folder: str | Path, trial: int, *, storage: str | None = None, progress: bool = True) -> Reproduction:
    """Build a trial's model again from its inputs alone, and compare the bytes.

    Args:
        folder: the study's folder.
        trial: number of a complete trial.
        storage: an Optuna storage URL instead of the folder's `study.db`.
        progress: show progress on stderr.

    Raises:
        UsageError: there is no such trial.
        StudyError: the study cannot be read, or kept no digests.
    """
    from autotune.study.export import reproduce as rebuild
    from autotune.study.progress import listening

    with listening(progress) as listener:
        return rebuild(Path(folder), trial, storage=storage, stage=listener.stage)


def compare(folders: Sequence[str | Path | Study], *, whole: bool = False) -> pd.DataFrame:
    """Put several studies side by side: one row a recommended trial, the columns of trials.csv, ``model`` first.

    Args:
        folders: studies' folders, or `Study` objects.
        whole: all trials of the fronts, not only the recommended ones.
    """
    from autotune.reporting.compare import compare as side_by_side

    studies = [load_study(each).results if isinstance(each, (str, Path)) else each.results for each in folders]
    return side_by_side(studies, whole=whole).frame()


def _source(model: str | Path | ov.Model, tokenizer: Any) -> SourceModel | str:
    if isinstance(model, (str, Path)):
        return str(model)
    from autotune.models.source import SourceModel

    return SourceModel.from_model(model, tokenizer)


def _size(value: int | str) -> int:
    from autotune.common.units import parse_bytes

    try:
        return parse_bytes(value)
    except ValueError as error:
        raise UsageError(f"max_size: {error}") from error


def _changes(**options: Any) -> list[str]:
    return [f"study.{key}={value}" for key, value in options.items() if value is not None]


def _config(
    config: str | Path | Mapping[str, Any] | Config, changes: Sequence[str], output: str | Path | None = None
) -> Config:
    from autotune.config.config import Config, config_from, load_config

    if output is not None:
        changes = [*changes, f"output={json.dumps(str(output))}"]
    if isinstance(config, Config):
        return config_from(config.as_dict(), changes) if changes else config
    return config_from(config, changes) if isinstance(config, Mapping) else load_config(config, changes)
