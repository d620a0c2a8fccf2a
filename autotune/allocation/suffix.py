"""What lies behind a changed weight: only that part of the model is run, on what the part before it gives.

The model is cut into segments. The original's activations at a cut are computed once for a text; a weight behind the
cut is then measured by the rest of the model alone, on average a little more than half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.compiling import compile_model
from autotune.compression.arrays import FLOAT_TYPES, type_name
from autotune.compression.segments import BYTES_PER_ELEMENT, Segment, cut, extract, text_inputs
from autotune.evaluation import SCORING_CONFIG
from autotune.runtime import OpenVINOLanguageModel, finite

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import FloatArray, IntArray

__all__ = ["SHARE", "Suffixes"]

Kept = dict[str, npt.NDArray[Any]]

SEGMENTS = 4
"""With n segments of one size, (n + 1) / 2n of the model is run; each is compiled, so more of them save nothing."""

SHARE = 0.7
"""Of a whole forward pass, what a weight's takes on average: half of it, half a segment, and the head."""

BATCH_BYTES = 128 * 2**20
"""Logits of one inference."""


class Suffixes:
    """The parts of a model behind its cuts; one is compiled at a time, so weights are best taken in their order."""

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
            inputs: what each of these holds, by its name; looked up anew each time.
            tokenizer: the model's.
            device, ov_config: as for `OpenVINOLanguageModel`.
        """
        self._inputs, self._tokenizer, self._device = inputs, tokenizer, device
        self._config = dict(ov_config)
        logits = model.output("logits").get_node().input_value(0)
        name = f"{logits.get_node().get_friendly_name()}:{logits.get_index()}"
        constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
        sizes = [int(np.prod(node.get_output_shape(0))) for node in constants if type_name(node) in FLOAT_TYPES]
        segments = cut(model, {name: 0}, BYTES_PER_ELEMENT * sum(sizes) // SEGMENTS)
        self._kept_by = [segment.kept for segment in segments]
        self._parts: list[ov.Model] = []
        self._behind: list[ov.Model] = []
        before: list[str] = []
        for segment in segments:
            self._behind.append(_part(probe, Segment((name,)), before))
            last = segment is segments[-1]
            self._parts.append(self._behind[-1] if last else _part(probe, Segment((), segment.kept), before))
            before += segment.kept
        self._entering_of: dict[tuple[int, bytes], list[Kept]] = {}
        self._open: tuple[int, _Suffix] | None = None

    def segment(self, name: str) -> int:
        """The segment that first uses an input."""
        uses = (number for number, part in enumerate(self._parts) if name in _input_names(part))
        return next(uses, 0)

    def behind(self, number: int) -> OpenVINOLanguageModel:
        """The model from a segment on, the original before it.

        It can `scan` and nothing else, and lives until the next one is asked for.
        """
        if self._open is None or self._open[0] != number:
            self.close()
            suffix = _Suffix(
                self._behind[number],
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
        """What the segments before `number` give for these tokens, int64 [B, T]."""
        known = self._entering_of.setdefault((len(tokens), tokens.tobytes()), [{}])
        while len(known) <= number:
            known.append({**known[-1], **self._run(len(known) - 1, tokens, known[-1])})
        return known[number]

    def _run(self, number: int, tokens: IntArray, entering: Kept) -> Kept:
        """What one segment of the original keeps for later ones."""
        config = {key: value for key, value in {**SCORING_CONFIG, **self._config}.items() if value is not None}
        compiled = compile_model(self._parts[number], f"segment {number} of the model", self._device, config)
        given = {**text_inputs(tokens), **entering, **self._inputs}
        found = compiled({name: given[name] for name in _input_names(self._parts[number])}, share_inputs=True)
        kept = {name: np.array(found[index]) for index, name in enumerate(self._kept_by[number])}
        compiled.release_memory()
        return kept


class _Suffix(OpenVINOLanguageModel):
    """The rest of a model, which sees whole sequences at a time."""

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
        """The part was made here; it may well do without the tokens."""

    def scan(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Iterator[tuple[int, int, FloatArray]]:
        """As `LanguageModel.scan`; whole sequences of one length run together, as many as fit."""
        self._held.update({name: self._weights[name] for name in self._needed if name in self._weights})
        for batch in _batches([len(sequence) for sequence in sequences], 4 * self.vocabulary_size):
            tokens = np.array([sequences[index] for index in batch], np.int64)
            self._check_tokens(tokens)
            entering = self._entering(tokens)
            self._held.update({name: entering[name] for name in self._needed if name in entering})
            logits = self._fresh(tokens)
            for row, index in enumerate(batch):
                if first[index] < len(sequences[index]):
                    yield index, first[index], finite(logits[row, first[index] :], self._name)


def _batches(lengths: Sequence[int], bytes_per_token: int) -> Iterator[list[int]]:
    """Which sequences run together: equally long ones, in their order."""
    batch: list[int] = []
    for index, length in enumerate(lengths):
        full = len(batch) >= max(1, BATCH_BYTES // (bytes_per_token * max(length, 1)))
        if batch and (full or lengths[batch[0]] != length):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _part(probe: ov.Model, segment: Segment, before: Sequence[str]) -> ov.Model:
    """A segment whose inputs all have names."""
    part = extract(probe, segment, before, lambda output: [output])
    for parameter in part.get_parameters():
        if not parameter.output(0).get_names():
            parameter.output(0).set_names({parameter.get_friendly_name()})
    return part


def _input_names(model: ov.Model) -> set[str]:
    return {name for parameter in model.get_parameters() for name in parameter.output(0).get_names()}
