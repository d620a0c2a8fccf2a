"""Validate the `evaluators`, `report`, `objectives` and `constraints` of a configuration.

Only the evaluators that a study names are imported. The others are imported only to find the one that measures an
unknown metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from autotune.common.paths import absolute, local_or_hub, looks_like_path, text_problem
from autotune.common.units import Constraint, parse_constraint
from autotune.common.validation import Finding, Invalid, from_validation, got, nearest
from autotune.errors import AutotuneError, ConfigError
from autotune.evaluation import Metric, registry
from autotune.evaluation.scores import FOOTPRINT, RELATIVE_ERROR, RELATIVE_TO
from autotune.models.tasks.task import Task

STUDY_METRICS = {"footprint": FOOTPRINT, "relative_error": RELATIVE_ERROR}
"""The metrics that need no evaluator."""

_SOURCE = frozenset(("path", "dataset", "name", "split", "column", "synthetic", "skip"))
"""The options that name a text; report texts that set one of them drop the others of the search."""

DIRECTIONS = ("minimize", "maximize")
BETTER = {"minimize": "smaller", "maximize": "larger"}


AT_TOKENS = re.compile(r"(.*\S)\s+at\s+(\d+)\s+tokens", re.DOTALL)
"""A limit at a length, such as ``<= 6 GB at 8192 tokens``."""

AT_A_LENGTH = ("memory", "memory_measured")
"""The metrics that have such limits, of the evaluator memory."""


def with_memory(data: Any, task: Callable[[], Task]) -> Any:
    """Give limits of memory and the evaluator memory one length: ``constraints: {memory: "<= 6 GB at 8192 tokens"}``.

    The length of a limit becomes the evaluator's `prompt_tokens`. A limit without a length gets that of the evaluator.

    Args:
        data: content of a model.yaml, not validated.
        task: returns the model's task, whose evaluators are the default.

    Returns:
        `data`, or a changed copy.

    Raises:
        Invalid: the evaluator, or another limit, has another length.
    """
    limits: Any = data.get("constraints") if isinstance(data, Mapping) else None
    named = {name: limits[name] for name in AT_A_LENGTH if name in limits} if isinstance(limits, Mapping) else {}
    if not all(isinstance(limit, str) for limit in named.values()):
        return data
    matches = {name: match for name, limit in named.items() if (match := AT_TOKENS.fullmatch(limit.strip()))}
    evaluators: Any = data.get("evaluators") or task().evaluators if named else None
    if not isinstance(evaluators, Mapping) or not (matches or "memory" in evaluators):
        return data
    options: Any = evaluators.get("memory") or {}
    if not isinstance(options, Mapping):
        return data
    tokens = options.get("prompt_tokens") or next((int(each[2]) for each in matches.values()), _default_length())
    for name, match in matches.items():
        if int(match[2]) != tokens:
            message = f"is a limit at {match[2]} tokens, and evaluators.memory.prompt_tokens is {got(tokens)}; use one"
            raise Invalid(Finding(("constraints", name), message))
    texts = {name: limit if name in matches else f"{limit.strip()} at {tokens} tokens" for name, limit in named.items()}
    evaluators = {**evaluators, "memory": {**options, "prompt_tokens": tokens}}
    return {**data, "constraints": {**limits, **texts}, "evaluators": evaluators}


def _default_length() -> Any:
    """Return the default of the evaluator memory's `prompt_tokens`."""
    options = registry.evaluator_options("memory")
    return None if options is None else options.model_fields["prompt_tokens"].default


def read_evaluators(
    raw: Any, base_dir: Path, task: Task | None = None, *, chat_template: bool | None = None
) -> dict[str, dict[str, Any]]:
    """Validate evaluators and return their options as plain data with absolute paths.

    If an evaluator class has an attribute `Options` (a pydantic model), it validates the options.

    Args:
        raw: the value in the file.
        base_dir: the folder that relative paths start from.
        task: of the model; None is not known yet.
        chat_template: whether the model's folder has a chat template; None is not known yet.

    Raises:
        Invalid: an unknown evaluator, or one of another task; a wrong option, a missing or empty text file.
    """
    if not isinstance(raw, Mapping):
        raise Invalid(Finding((), f"must be a mapping of evaluators and their options, got {got(raw)}"))
    if not raw:
        raise Invalid(Finding((), "must name at least one evaluator"))
    findings: list[Finding] = []
    read: dict[str, dict[str, Any]] = {}
    owners: dict[str, str] = {}
    for name, given in raw.items():
        if given is not None and not isinstance(given, Mapping):
            findings.append(Finding((name,), f"must be a mapping of options, got {got(given)}"))
            continue
        try:
            metrics = registry.evaluator_metrics(name)
            if task is not None and task.name not in (scored := registry.evaluator_tasks(name)):
                findings.append(Finding((name,), wrong_task(scored, task)))
                continue
            options, problems = _options(name, dict(given or {}), base_dir, chat_template)
        except AutotuneError as error:
            problem = error.problem if isinstance(error, ConfigError) else str(error)
            findings.append(Finding((name,), problem.removesuffix(".")))
            continue
        findings += [finding.inside((name,)) for finding in problems]
        read[name] = options
        for metric in metrics:
            if metric in owners or metric in STUDY_METRICS:
                other = owners.get(metric, "the search itself")
                findings.append(Finding((name,), f"measures {metric}, which {other} measures too; name one of them"))
            owners[metric] = name
    if findings:
        raise Invalid(*findings)
    return read


def wrong_task(scored: Iterable[str], task: Task) -> str:
    """Explain why an evaluator cannot score models of a task, and what can."""
    return (
        f"scores models for {' and '.join(scored)}, and this one is for {task.name}; use {' or '.join(task.evaluators)}"
        f", or set `task` if the model is meant for something else"
    )


def read_report(
    raw: Any, evaluators: Mapping[str, Mapping[str, Any]] | None, base_dir: Path
) -> dict[str, dict[str, Any]] | Literal[False] | None:
    """Validate the evaluators' options for the report texts; False disables report texts.

    Options that are not given are those of the search. A text that is given replaces the text of the search.

    Args:
        raw: the value in the file; None leaves the choice of report texts to the evaluators.
        evaluators: options of the search by evaluator; None if they are invalid.
        base_dir: the folder that relative paths start from.

    Raises:
        Invalid: an evaluator that the study does not have, or a wrong option.
    """
    if raw is None or raw is False or evaluators is None:
        return None if raw is not False else False
    if not isinstance(raw, Mapping):
        raise Invalid(Finding((), f"must be false or a mapping of evaluators and their other texts, got {got(raw)}"))
    findings: list[Finding] = []
    read: dict[str, dict[str, Any]] = {}
    for name, given in raw.items():
        if name not in evaluators:
            available = f"the evaluators here are {', '.join(evaluators)}"
            findings.append(
                Finding((name,), f"is not an evaluator of this study{nearest(name, evaluators)}; {available}")
            )
        elif not isinstance(given, Mapping) or not given:
            findings.append(
                Finding((name,), f"must be a mapping of options such as {{path: report.txt}}, got {got(given)}")
            )
        else:
            own = {
                key: value for key, value in evaluators[name].items() if not (_SOURCE & set(given) and key in _SOURCE)
            }
            read[name], problems = _options(name, {**own, **given}, base_dir)
            findings += [finding.inside((name,)) for finding in problems]
    if findings:
        raise Invalid(*findings)
    return read


def known_evaluators(raw: Any) -> list[str] | None:
    """Return the names of the evaluators in `raw`, without checking options; None if one cannot be found."""
    try:
        return [name for name in raw if registry.evaluator_metrics(name)] if isinstance(raw, Mapping) else None
    except AutotuneError:
        return None


def default_objectives(evaluators: Iterable[str]) -> dict[str, str]:
    """Return KL divergence (or the first metric that is measured) and footprint."""
    metrics = _metrics(evaluators)
    chosen = next(name for name in ("kl_divergence", "similarity", *metrics) if name in metrics)
    return {chosen: metrics[chosen].direction, "footprint": "minimize"}


def read_objectives(raw: Any, evaluators: Iterable[str] | None) -> dict[str, str]:
    """Validate objectives and return objective -> direction in the same order.

    Args:
        raw: the value in the file.
        evaluators: names of the study's evaluators; None if they are invalid, then only directions are checked.

    Raises:
        Invalid: none at all, an unknown metric, a wrong direction.
    """
    if not isinstance(raw, Mapping) or not raw:
        example = "such as {kl_divergence: minimize, footprint: minimize}"
        reason = "needs at least one objective" if raw in (None, {}, []) else f"must be a mapping, got {got(raw)}"
        raise Invalid(Finding((), f"{reason}; write a mapping {example}"))
    names = None if evaluators is None else tuple(evaluators)
    metrics = {} if names is None else {**_metrics(names), **STUDY_METRICS}
    findings: list[Finding] = []
    for name, direction in raw.items():
        problem = None if names is None else _unknown_metric(name, metrics, names)
        if problem is None and direction not in DIRECTIONS:
            slips = {"min": "minimize", "lower": "minimize", "max": "maximize", "higher": "maximize"}
            close = slips.get(str(direction).lower())
            hint = f" (did you mean {close!r}?)" if close else nearest(direction, DIRECTIONS)
            problem = f"must be minimize or maximize, got {got(direction)}{hint}"
        elif problem is None and name in metrics and direction != metrics[name].direction:
            expected = metrics[name].direction
            problem = f"must be {expected} (the {BETTER[expected]}, the better), got {direction}"
        if problem is not None:
            findings.append(Finding((name,), problem))
    if findings:
        raise Invalid(*findings)
    return dict(raw)


def read_constraints(raw: Any, evaluators: Iterable[str] | None) -> dict[str, Constraint]:
    """Validate constraints and return metric -> limit; arguments as `read_objectives`.

    Raises:
        Invalid: an unknown metric, or a limit that cannot be read in the metric's unit.
    """
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise Invalid(Finding((), f'must be a mapping such as {{perplexity_increase: "<= 5%"}}, got {got(raw)}'))
    names = None if evaluators is None else tuple(evaluators)
    metrics = {} if names is None else {**_metrics(names), **STUDY_METRICS}
    findings: list[Finding] = []
    read: dict[str, Constraint] = {}
    for name, limit in raw.items():
        problem = None if names is None else _unknown_metric(name, metrics, names)
        if problem is None:
            metric = metrics.get(name) or STUDY_METRICS.get(name)
            try:
                if isinstance(limit, Constraint):
                    limit = limit.text
                share = metric is not None and metric.perfect == 1.0 and not metric.unit
                match = AT_TOKENS.fullmatch(limit.strip()) if name in AT_A_LENGTH and isinstance(limit, str) else None
                quantity, length = (limit, "") if match is None else (match[1], f" at {match[2]} tokens")
                found = parse_constraint(quantity, unit=None if metric is None else metric.unit, share=share)
                read[name] = replace(found, text=found.text + length)
            except ValueError as error:
                problem = str(error)
                if "not a percentage" in problem and f"{name}_increase" in metrics:
                    problem += f", or limit {name}_increase"
        if problem is not None:
            findings.append(Finding((name,), problem))
    if findings:
        raise Invalid(*findings)
    return read


def _unknown_metric(name: str, metrics: Mapping[str, Metric], evaluators: tuple[str, ...]) -> str | None:
    """Explain why `name` is not a metric of this study; None if it is one."""
    if name == "relative_error" and not any(base in metrics for base in RELATIVE_TO):
        return f"is made of {' and '.join(RELATIVE_TO)}, and no evaluator here measures one of them"
    if name in metrics:
        return None
    for other, _ in registry.available():
        try:
            measured = other not in evaluators and name in registry.evaluator_metrics(other)
        except AutotuneError:
            continue
        if measured:
            return f"is measured by the evaluator {other}, which is not among the evaluators here; add it"
    return f"unknown metric{nearest(name, metrics)}; the metrics here are {', '.join(metrics)}"


def _metrics(evaluators: Iterable[str]) -> dict[str, Metric]:
    """Return the metrics of valid evaluators."""
    found: dict[str, Metric] = {}
    for name in evaluators:
        found |= registry.evaluator_metrics(name)
    return found


def _options(
    name: str, options: dict[str, Any], base_dir: Path, chat_template: bool | None = None
) -> tuple[dict[str, Any], list[Finding]]:
    """Return an evaluator's options with absolute paths, and their problems; arguments as `read_evaluators`."""
    findings: list[Finding] = []
    for key in ("path", "prompts", "conversations"):
        value = options.get(key)
        # A bare word names a built-in set; a file of prompts or conversations has a suffix or a folder.
        if isinstance(value, str) and (key == "path" or "." in value or "/" in value or "\\" in value):
            try:
                path = absolute(value, base_dir)
            except ValueError as error:
                findings.append(Finding((key,), str(error)))
                continue
            options[key] = str(path)
            problem = text_problem(path)
            if problem is not None:
                findings.append(Finding((key,), problem))
    for key in ("dataset", "embedder"):
        value = options.get(key)
        # A bare word is not a folder here: it may be an embedder's name such as minilm.
        if isinstance(value, str) and (key == "dataset" or "/" in value or looks_like_path(value)):
            try:
                options[key] = local_or_hub(value, base_dir) if value else value
            except ValueError as error:
                findings.append(Finding((key,), str(error)))
    model = registry.evaluator_options(name)
    if model is not None:
        reported = {finding.path for finding in findings}
        try:
            model.model_validate(options, context={"base_dir": base_dir, "chat_template": chat_template})
        except ValidationError as error:
            findings += [finding for finding in from_validation(error, model) if finding.path not in reported]
    return options, findings
