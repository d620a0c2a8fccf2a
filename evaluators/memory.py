"""Memory of a model as it is deployed, at a context length."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autotune.errors import EvaluationError, PrerequisiteError
from autotune.evaluation import LanguageModel, Measurement, Metric, Reference, fingerprint
from evaluators._child import child, last_line

__all__ = ["Memory", "Options"]

_VERSION = 1  # increased when the same options give other scores

METRICS: Mapping[str, Metric] = {
    "memory": Metric("minimize", "bytes", "peak memory in OpenVINO GenAI with a prompt of `prompt_tokens`, predicted"),
    "memory_measured": Metric("minimize", "bytes", "the same, measured; of the final front"),
}


class Options(BaseModel):
    """The options of `memory` in model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int = Field(4096, ge=16, strict=True, description="Length of the prompt.")
    ov_config: dict[str, str | int] = Field(
        default_factory=dict, description="OpenVINO properties of the pipeline, e.g. {KV_CACHE_PRECISION: u8}."
    )


class Memory:
    """Measures resident memory in a process that runs OpenVINO GenAI's `LLMPipeline` on the CPU.

    It is the peak from loading to the end of a prompt of `prompt_tokens`: weights, KV cache and activations, above
    the memory of a process that has only imported OpenVINO GenAI. What the prompt adds to the loaded model hardly
    depends on the format of the weights. It is measured once, on the original, so that ``memory`` takes only the
    loading of a compressed model. The prompt itself is run for ``memory_measured``.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS
    as_deployed = True
    previewed = frozenset({"memory"})

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is run yet."""
        self.options = Options(**options)

    def fingerprint(self) -> str:
        """Return a fingerprint of the options and the version of OpenVINO GenAI, for a reference is a measurement."""
        installed = importlib.util.find_spec("openvino_genai") is not None
        runtime = metadata.version("openvino-genai") if installed else None
        return fingerprint(_VERSION, runtime, self.options.model_dump())

    def check(self, tokenizer: Any) -> None:
        """Refuse to begin where memory cannot be measured; see `Checking`.

        Raises:
            PrerequisiteError: OpenVINO GenAI is not installed, or the system is not Linux.
        """
        if importlib.util.find_spec("openvino_genai") is None:
            raise PrerequisiteError(
                "the evaluator memory runs models in OpenVINO GenAI: pip install 'ov-autotune[genai]'"
            )
        if not Path("/proc/self/clear_refs").exists():
            raise PrerequisiteError(
                "the evaluator memory reads the peak memory of a process from /proc, which only Linux has; use "
                "peak_memory of the evaluator latency"
            )

    def reference(self, original: LanguageModel) -> Reference:
        """Measure the original: int64 [1] ``growth``, bytes that the prompt adds, and ``memory``.

        Raises:
            EvaluationError: it cannot be run.
        """
        self.check(original.tokenizer)
        found = self._measured(original, self.options.prompt_tokens)
        return {"growth": np.array([found["running"] - found["loaded"]]), "memory": np.array([_peak(found)])}

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Measure the loading of `candidate`, and the prompt; see `Evaluator.evaluate`.

        Raises:
            EvaluationError: it cannot be run.
        """
        found = self._measured(candidate, self.options.prompt_tokens)
        return {**_predicted(found, reference), "memory_measured": Measurement(_peak(found))}

    def preview(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Measure the loading of `candidate` alone; see `Previewing`.

        Raises:
            EvaluationError: it cannot be run.
        """
        return _predicted(self._measured(candidate, 0), reference)

    def bounds(self, footprint: int, reference: Reference) -> Mapping[str, float]:
        """Return the weights, which are in memory at least once, and what the prompt adds; see `Bounding`."""
        return dict.fromkeys(METRICS, float(footprint + int(reference["growth"][0])))

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the original's memory, which is measured."""
        return dict.fromkeys(METRICS, Measurement(float(reference["memory"][0])))

    def _measured(self, model: LanguageModel, tokens: int) -> dict[str, Any]:
        with _folder(model) as folder:
            arguments = [str(folder), str(tokens), json.dumps(self.options.ov_config)]
            command, environment = child("evaluators._memory_worker", *arguments)
            process = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        if process.returncode:
            problem = last_line(process.stderr, f"the process ended with status {process.returncode}")
            raise EvaluationError(f"the model cannot be run in OpenVINO GenAI with {tokens or 'few'} tokens: {problem}")
        found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        return found


def _predicted(found: Mapping[str, Any], reference: Reference) -> dict[str, Measurement]:
    """Add what the prompt adds to the original to the memory of a loaded model."""
    return {"memory": Measurement(_peak({**found, "running": found["loaded"] + int(reference["growth"][0])}))}


def _peak(found: Mapping[str, Any]) -> int:
    """Return the larger of the peaks of loading and running."""
    return max(int(found["loading"]), int(found["running"]))


@contextmanager
def _folder(model: LanguageModel) -> Iterator[Path]:
    """Yield a folder with the model's IR and its tokenizer as IR, as OpenVINO GenAI loads them."""
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if isinstance(model.source, Path):
            for suffix in (".xml", ".bin"):
                (folder / f"openvino_model{suffix}").symlink_to(model.source.with_suffix(suffix).absolute())
        else:
            ov.save_model(model.source, folder / "openvino_model.xml", compress_to_fp16=False)
        tokenizer, detokenizer = convert_tokenizer(model.tokenizer, with_detokenizer=True)
        ov.save_model(tokenizer, folder / "openvino_tokenizer.xml")
        ov.save_model(detokenizer, folder / "openvino_detokenizer.xml")
        yield folder
