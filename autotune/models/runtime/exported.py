"""Comparison of an exported model with the original: the logits of a few tokens, computed by OpenVINO and by torch."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autotune.compression.calibration.segments import text_inputs
from autotune.errors import PrerequisiteError, reason
from autotune.models.architecture import quiet
from autotune.models.companions import part_files
from autotune.models.runtime.compile import compile_model, last_line, read_model, xml_path
from autotune.models.runtime.embeddings import Embeddings
from autotune.models.runtime.graph import IMAGE_INPUTS, why_not_scorable
from autotune.models.tasks.task import Task

_log = logging.getLogger(__name__)

TOKENS = 16
LARGEST = 0.3
"""Bound on the relative distance of logits. Right exports of float32 checkpoints are below 1e-5. torch computes in the
type of the checkpoint: a random Llama of 24 layers was at 0.07 in bfloat16 and at 0.008 in float16. Wrong exports were
at 0.76 (Mamba) to 1.2 (Falcon Mamba), with transformers 5.0.0."""


def check_logits(model: str, files: Path, out: Path, config: Any, task: Task, *, trust_remote_code: bool) -> None:
    """Refuse an export that is not the original: exporters know some versions of an architecture and not others.

    Args:
        model: what the user calls it.
        files: the Hugging Face folder that was exported.
        out: the export.
        config: the configuration that `load_config` returned.
        task: of the export; only logits of language models are compared.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        PrerequisiteError: the logits differ.
    """
    if not task.generates:
        return
    try:
        vocabulary = config.get_text_config().vocab_size
        tokens = np.random.default_rng(0).integers(0, vocabulary, (1, TOKENS), dtype=np.int64)
        expected = _original_logits(files, config, task, tokens, trust_remote_code)
    except Exception as error:
        _log.warning("%s: the export cannot be compared with transformers (%s)", model, reason(error))
        return
    try:
        found = _exported_logits(out, model, tokens)
    except RuntimeError as error:
        problem = f"it does not run ({last_line(error)})"
    else:
        if found is None or not np.isfinite(expected).all():  # torch computes in float16 if the weights are stored so
            return
        distances = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        # Rounding may send single tokens to other experts; a wrong graph changes most tokens.
        distance = float(np.median(distances))
        if distance < LARGEST:
            return
        problem = f"on {TOKENS} tokens, its logits differ from those of transformers by {distance:.0%}"
    raise PrerequisiteError(
        f"{model}: the exported model is not the original: {problem}. `{config.model_type}` is exported wrongly by "
        f"optimum-intel {version('optimum-intel')} with transformers {version('transformers')}. The page "
        "docs/reference/families.md lists the versions that are right for each type: export it in an environment with "
        "one of them, by `optimum-cli export openvino`, and name that folder"
    )


def _original_logits(files: Path, config: Any, task: Task, tokens: Any, trust_remote_code: bool) -> Any:
    """Compute with torch in the type that the weights are stored in, float32 [tokens, vocabulary]."""
    import torch
    from optimum.exporters.tasks import TasksManager

    with quiet(), torch.no_grad():
        make = TasksManager.get_model_class_for_task(
            task.export_task, model_type=config.model_type, library="transformers"
        )
        original = make.from_pretrained(files, dtype="auto", trust_remote_code=trust_remote_code).eval()
        return original(torch.from_numpy(tokens), use_cache=False).logits[0].float().numpy()


def _exported_logits(out: Path, model: str, tokens: Any) -> Any:
    """Compute with OpenVINO, float32 [tokens, vocabulary]; None if the model is not made for texts alone."""
    compiled = compile_model(read_model(xml_path(out), model), model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given, name = text_inputs(tokens), "input_ids"
    if part_files(out):
        name = "inputs_embeds"
        given |= Embeddings(out).inputs(tokens)
    if why_not_scorable(compiled.inputs, compiled.outputs, tokens=name, fed=IMAGE_INPUTS) is not None:
        return None
    return compiled({port.any_name: given[port.any_name] for port in compiled.inputs})["logits"][0]
