"""Run only the layers after a changed weight, starting from cached activations.

The model is cut into segments. The original's activations at a cut are computed once for a text. A weight after the cut
is then measured by the rest of the model alone, on average a little more than half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.compression.calibration.segments import BYTES_PER_ELEMENT, Segment, cut, extract, text_inputs
from autotune.compression.ir.constants import FLOAT_TYPES, type_name
from autotune.models.runtime.compile import check_finite, compile_model, scoring_properties
from autotune.models.runtime.language_model import OpenVINOLanguageModel

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import FloatArray, IntArray

Kept = dict[str, npt.NDArray[Any]]

SEGMENTS = 4
"""Number of segments. With n equal ones, (n + 1) / 2n of the model is run; each one is compiled."""

SHARE = 0.7
"""Average share of a forward pass to measure a weight: half the model, half a segment, and the head."""


class Suffixes:
    """Parts of a model after its cuts. One is compiled at a time, so measure weights in the model's order."""

    def __init__(
        self,
        model: ov.Model,
        probe: ov.Model,
        inputs: Mapping[str, ov.Tensor],
        tokenizer: Any,
        *,
        device: str,
        ov_config: Mapping[str, Any],
    ) -> None:
        """Cut a model.

        Args:
            model: the original.
            probe: the same with weights as inputs; not changed.
            inputs: name -> value of each of these; looked up each time.
            tokenizer: the model's.
            device, ov_config: as for `OpenVINOLanguageModel`.
        """
        self._probe, self._inputs, self._tokenizer = probe, inputs, tokenizer
        self._device, self._config = device, ov_config
        logits = model.output("logits").get_node().input_value(0)
        name = f"{logits.get_node().get_friendly_name()}:{logits.get_index()}"
        constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
        sizes = [int(np.prod(node.get_output_shape(0))) for node in constants if type_name(node) in FLOAT_TYPES]
        self._logits = Segment((name,))
        self._segments = cut(model, {name: 0}, BYTES_PER_ELEMENT * sum(sizes) // SEGMENTS)
        self._parts: list[ov.Model] = []
        self._first_use: dict[str, int] = {}
        for number, segment in enumerate(self._segments):
            last = number == len(self._segments) - 1
            part = self._part(number, self._logits if last else Segment((), segment.kept))
            self._parts.append(part)
            self._first_use = dict.fromkeys(_input_names(part), number) | self._first_use
        self._entering_of: dict[tuple[int, bytes], list[Kept]] = {}
        self._open: tuple[int, _Suffix] | None = None

    def _part(self, number: int, outputs: Segment) -> ov.Model:
        """Extract the part of the model that begins with a segment, and name all its inputs."""
        before = [name for segment in self._segments[:number] for name in segment.kept]
        part = extract(self._probe, outputs, before, lambda output: [output])
        for parameter in part.get_parameters():
            if not parameter.output(0).get_names():
                parameter.output(0).set_names({parameter.get_friendly_name()})
        return part

    def segment(self, name: str) -> int:
        """Return the segment that first uses an input; 0 if none does."""
        return self._first_use.get(name, 0)

    def behind(self, number: int) -> OpenVINOLanguageModel:
        """Compile the model from a segment on, with the original before it.

        It supports only `scan`, and is freed when another segment is requested.
        """
        if self._open is None or self._open[0] != number:
            self.close()
            suffix = _Suffix(
                self._part(number, self._logits),
                self._inputs,
                lambda tokens: self._entering(number, tokens),
                self._tokenizer,
                device=self._device,
                ov_config=self._config,
            )
            self._open = number, suffix
        return self._open[1]

    def close(self) -> None:
        """Free what is compiled."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _entering(self, number: int, tokens: IntArray) -> Kept:
        """Compute the activations that enter segment `number` for these tokens, int64 [B, T]."""
        activations = self._entering_of.setdefault((len(tokens), tokens.tobytes()), [{}])
        while len(activations) <= number:
            activations.append({**activations[-1], **self._run(len(activations) - 1, tokens, activations[-1])})
        return activations[number]

    def _run(self, number: int, tokens: IntArray, entering: Kept) -> Kept:
        """Run one segment of the original, and return the activations that later ones need."""
        config = scoring_properties(self._config)
        compiled = compile_model(self._parts[number], f"segment {number} of the model", self._device, config)
        given = {**text_inputs(tokens), **entering, **self._inputs}
        outputs = compiled({name: given[name] for name in _input_names(self._parts[number])}, share_inputs=True)
        kept = {name: np.array(outputs[index]) for index, name in enumerate(self._segments[number].kept)}
        compiled.release_memory()
        return kept


class _Suffix(OpenVINOLanguageModel):
    """Rest of a model, run on whole sequences."""

    def __init__(
        self,
        model: ov.Model,
        inputs: Mapping[str, ov.Tensor],
        entering: Callable[[IntArray], Kept],
        tokenizer: Any,
        *,
        device: str,
        ov_config: Mapping[str, Any],
    ) -> None:
        self._needed = _input_names(model)
        self._weights, self._entering = inputs, entering
        self._held: dict[str, Any] = {}
        super().__init__(model, tokenizer, device=device, ov_config=ov_config, constants=self._held)

    def _check_ports(self, compiled: Any) -> None:
        """Check nothing: the part was extracted here, and may have no token input."""

    def scan(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Iterator[tuple[int, int, FloatArray]]:
        """As `LanguageModel.scan`; there is no cache, so that sequences run whole."""
        self._held.update({name: self._weights[name] for name in self._needed if name in self._weights})
        lengths = [len(sequence) for sequence in sequences]
        for batch in self._scan_batches(lengths, columns=max(lengths)):
            tokens = self._padded([sequences[index] for index in batch])
            entering = self._entering(tokens)
            self._held.update({name: entering[name] for name in self._needed if name in entering})
            logits = self._fresh(tokens)
            for row, index in enumerate(batch):
                if first[index] < lengths[index]:
                    yield index, first[index], check_finite(logits[row, first[index] : lengths[index]], self._name)


def _input_names(model: ov.Model) -> set[str]:
    return {name for parameter in model.get_parameters() for name in parameter.output(0).get_names()}
