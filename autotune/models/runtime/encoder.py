"""Models without a cache run by OpenVINO alone: one pass over whole texts, padded in batches, gives one output a text.

Encoders and classifiers are such models, and causal language models that were exported without a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import EvaluationError
from autotune.models.runtime.compile import (
    check_finite,
    check_precision,
    compile_model,
    effective_properties,
    last_line,
    scoring_properties,
    xml_path,
)

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import FloatArray

ROWS = 32
TOKENS = 4096
PADDING = 1.25
OUTPUT_BYTES = 128 * 2**20
"""Limits of a batch: texts, tokens with padding, the longest text in relation to the shortest, size of the output."""


class OpenVINOEncoder:
    """A model compiled by OpenVINO; implements `autotune.evaluation.Encoder`.

    Attributes:
        properties: the effective runtime properties, as strings.
        source: the `ov.Model` or the path of the .xml file that was compiled.
        usage: see `autotune.evaluation.Encoder`.
    """

    def __init__(
        self,
        model: ov.Model | Path,
        tokenizer: Any,
        outputs: Sequence[str],
        *,
        usage: Mapping[str, Any] | None = None,
        device: str = "CPU",
        ov_config: Mapping[str, Any] | None = None,
        constants: Mapping[str, ov.Tensor] | None = None,
    ) -> None:
        """Compile `model` for `device`.

        Args:
            model: a model whose task's `why_not_scorable` is None, or its folder.
            tokenizer: the `transformers` tokenizer.
            outputs: names of the output that is read; the first one that the model has.
            usage: how texts are put into the model, as its own files say.
            device, ov_config, constants: as for `OpenVINOLanguageModel`.

        Raises:
            EvaluationError: the model cannot be read or compiled, or the device does not honour the precision.
        """
        path = xml_path(model) if isinstance(model, Path) else None
        config = scoring_properties(ov_config)
        config.setdefault("PERFORMANCE_HINT", "LATENCY")
        if device == "CPU":
            config.setdefault("CPU_RUNTIME_CACHE_CAPACITY", 0)  # as for language models
        self.tokenizer, self.usage = tokenizer, dict(usage or {})
        self.source = model if path is None else path
        self._name = "the model" if path is None else str(path)
        self._constants = {} if constants is None else constants
        self._compiled: Any = compile_model(self.source, self._name, device, config)
        self._inputs = {name for port in self._compiled.inputs for name in port.get_names()}
        results = {name for port in self._compiled.outputs for name in port.get_names()}
        self._output = next(name for name in outputs if name in results)
        shape = self._compiled.output(self._output).get_partial_shape()
        width = shape[2].get_length() if len(shape) == 3 and shape[2].is_static else 1
        self._most = max(1, min(TOKENS, OUTPUT_BYTES // (4 * width)))
        self.properties = effective_properties(self._compiled, device, config)
        check_precision(self.properties, device, config)
        self._request: Any = self._compiled.create_infer_request()

    def run(
        self, sequences: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> Iterator[tuple[int, FloatArray]]:
        """Run whole texts in padded batches; see `Encoder.run`."""
        for batch in self._batches([len(sequence) for sequence in sequences]):
            shape = (len(batch), max(len(sequences[index]) for index in batch))
            tokens = np.full(shape, getattr(self.tokenizer, "pad_token_id", None) or 0, np.int64)
            mask, kinds = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
            for row, index in enumerate(batch):
                length = len(sequences[index])
                tokens[row, :length], mask[row, :length] = sequences[index], 1
                if types is not None:
                    kinds[row, :length] = types[index]
            result = self._infer(tokens, mask, kinds)
            for row, index in enumerate(batch):
                found = result[row, : len(sequences[index])] if result.ndim == 3 else result[row]
                yield index, np.array(check_finite(found, self._name, "numbers"), np.float32)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Group texts of similar length, as a function of lengths and model alone."""
        padding = PADDING if "attention_mask" in self._inputs else 1.0
        batches: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            longest = lengths[batches[-1][0]] if batches else 0
            fits = batches and len(batches[-1]) < min(ROWS, self._most // max(longest, 1))
            if fits and longest <= padding * lengths[index]:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _infer(self, tokens: Any, mask: Any, kinds: Any) -> FloatArray:
        if self._request is None:
            raise RuntimeError("the model is closed")
        values = {
            "input_ids": tokens,
            "attention_mask": mask,
            "token_type_ids": kinds,
            "position_ids": np.ascontiguousarray(np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)),
            "beam_idx": np.arange(len(tokens), dtype=np.int32),
        }
        feed = {**{name: value for name, value in values.items() if name in self._inputs}, **self._constants}
        try:
            self._request.reset_state()
            result = self._request.infer(feed, share_inputs=True, share_outputs=True)[self._output]
        except RuntimeError as error:
            raise EvaluationError(
                f"{self._name} failed on tokens of shape {list(tokens.shape)}: {last_line(error)} If a token is not in "
                "its vocabulary, use the tokenizer files that were saved with this model."
            ) from error
        return np.asarray(result, np.float32)

    def close(self) -> None:
        """Free the compiled model; no other method may be called afterwards."""
        if self._request is not None:
            self._request = None
            self._compiled.release_memory()
            self._compiled = None

    def __enter__(self) -> OpenVINOEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
