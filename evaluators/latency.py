"""Speed and memory of a model as it is deployed, relative to the original."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autotune.errors import EvaluationError
from autotune.evaluation import LanguageModel, Measurement, Metric, Reference, fingerprint
from evaluators._child import child, last_line
from evaluators._statistics import standard_error

__all__ = ["Latency", "Options"]

_VERSION = 1  # increased when the same options give other scores

_MEASURED: Mapping[str, Metric] = {
    "first_token": Metric("minimize", "s", "seconds from the prompt to the first new token"),
    "tokens_per_second": Metric("maximize", "tokens/s", "new tokens a second after the first"),
    "peak_memory": Metric("minimize", "bytes", "largest resident memory of a process that does nothing else"),
}

METRICS: Mapping[str, Metric] = {
    **_MEASURED,
    **{
        f"{name}_ratio": Metric(metric.direction, "", f"{name} in relation to the original's, measured in turn", 1.0)
        for name, metric in _MEASURED.items()
    },
}


class Options(BaseModel):
    """The options of `latency` in model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int = Field(256, ge=1, strict=True, description="Length of the prompt.")
    new_tokens: int = Field(64, ge=3, strict=True, description="Tokens decoded after it, one by one.")
    rounds: int = Field(5, ge=2, strict=True, description="Measurements of each model, taken in turn.")
    device: str = Field("CPU", min_length=1, description="The OpenVINO device.")


class Latency:
    """Measures original and candidate in turn, each in a process of its own, so that other load affects both alike.

    The models run with the properties that OpenVINO gives a deployed model, not with those of scoring. A ratio is the
    geometric mean over rounds; its standard error comes from the differences of rounds. Peak memory is that of the
    process. For a small model most of it is OpenVINO itself.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS
    as_deployed = True

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is run yet."""
        self.options = Options(**options)

    def fingerprint(self) -> str:
        """Return a fingerprint of the options."""
        return fingerprint(_VERSION, self.options.model_dump())

    def reference(self, original: LanguageModel) -> Reference:
        """Return the original's path as UTF-8 bytes, and its measurements float64 [rounds, 3].

        Raises:
            EvaluationError: the original is not in a file, or cannot be run with its default properties.
        """
        path = original.source
        if not isinstance(path, Path):
            raise EvaluationError(
                "latency runs models in separate processes and needs the original as a file. Give its folder, not an "
                "ov.Model."
            )
        with self._worker(path) as measure:
            rounds = np.array([measure() for _ in range(self.options.rounds)])
        return {"path": np.frombuffer(str(path).encode(), np.uint8).copy(), "rounds": rounds}

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Measure `candidate` and the original in turn; see `Evaluator.evaluate`.

        Raises:
            EvaluationError: the original's file is gone, or a model cannot be run with its default properties.
        """
        original = Path(np.asarray(reference["path"]).tobytes().decode())
        if not original.is_file():
            raise EvaluationError(f"the original model is no longer at {original}; latency needs it to compute ratios.")
        with ExitStack() as stack:
            path = candidate.source
            if not isinstance(path, Path):
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "openvino_model.xml"
                _save(candidate.source, path)
            workers = [stack.enter_context(self._worker(file)) for file in (original, path)]
            rounds = np.array([[measure() for measure in workers] for _ in range(self.options.rounds)])
        return _measurements(rounds[:, 0], rounds[:, 1])

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the original's speed and memory, with all ratios 1."""
        rounds = np.asarray(reference["rounds"])
        return _measurements(rounds, rounds)

    @contextmanager
    def _worker(self, path: Path) -> Iterator[Any]:
        """Start a process that loads the model; yield a function that measures once, [3]."""
        options = self.options
        arguments = [str(path), options.device, str(options.prompt_tokens), str(options.new_tokens)]
        command, environment = child("evaluators._latency_worker", *arguments)
        process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def line() -> str:
            text = process.stdout.readline()  # type: ignore[union-attr]
            if not text:
                problem = last_line(process.communicate()[1], "the process ended")
                raise EvaluationError(f"{path} cannot be run as deployed on {options.device}: {problem}")
            return text

        def measure() -> list[float]:
            print(file=process.stdin, flush=True)
            found = json.loads(line())
            return [float(found[name]) for name in _MEASURED]

        try:
            line()
            yield measure
        finally:
            process.kill()
            process.communicate()


def _save(model: Any, path: Path) -> None:
    import openvino as ov

    ov.save_model(model, path, compress_to_fp16=False)


def _measurements(
    originals: np.ndarray[Any, np.dtype[np.float64]], candidates: np.ndarray[Any, np.dtype[np.float64]]
) -> dict[str, Measurement]:
    """Compute all metrics from rounds [n, 3] of both models; medians are robust against a disturbed round."""
    measured: dict[str, Measurement] = {}
    for index, name in enumerate(_MEASURED):
        values = candidates[:, index]
        logs = np.log(values / originals[:, index])
        ratio = float(np.exp(logs.mean()))
        error = standard_error(logs)
        measured[name] = Measurement(float(np.median(values)), standard_error(values), tuple(values.tolist()))
        measured[f"{name}_ratio"] = Measurement(
            ratio, None if error is None else ratio * error, tuple(np.exp(logs).tolist())
        )
    return measured
