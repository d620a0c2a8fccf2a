"""Runs a causal language model by OpenVINO alone: logits of whole sequences, and greedy answers.

No optimum-intel and no torch: a search worker that only scores models stays small and starts fast.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import EvaluationError
from autotune.evaluation import SCORING_CONFIG, Verification

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import FloatArray, IntArray

__all__ = ["OpenVINOLanguageModel", "end_token_ids", "follow_draft"]

_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "beam_idx"})
_BATCH_ROWS = 32  # prompts decoded together; the KV cache of so many answers has to fit beside the model
_BATCH_BYTES = 128 * 2**20  # logits of one step of a batched prefill


class OpenVINOLanguageModel:
    """A causal language model compiled by OpenVINO; implements `autotune.evaluation.LanguageModel`.

    Not safe for use by several threads at once: the KV cache is the state of one inference request.

    Attributes:
        properties: the effective runtime properties, read back from the compiled model, as strings.
    """

    def __init__(
        self,
        model: ov.Model | str | Path,
        tokenizer: Any,
        *,
        device: str = "CPU",
        ov_config: Mapping[str, Any] | None = None,
        eos_token_ids: Sequence[int] | None = None,
        constants: Mapping[str, ov.Tensor] | None = None,
    ) -> None:
        """Compile `model` for `device`.

        Args:
            model: a stateful causal language model as optimum-intel exports it (input_ids, and attention_mask,
                position_ids, beam_idx where it has them; output logits), or the path of its .xml or of its folder.
            tokenizer: the `transformers` tokenizer.
            device: an OpenVINO device.
            ov_config: runtime properties, laid over `SCORING_CONFIG`; a value of None leaves that property to
                OpenVINO and the model.
            eos_token_ids: where answers end; by default what `end_token_ids` finds in the model's folder, or the
                tokenizer's end-of-text token.
            constants: further inputs of the model and what they hold at every inference; looked up anew each time.

        Raises:
            EvaluationError: the model cannot be read, is not such a model, cannot be compiled with these properties,
                or the device does not honour the precision asked for.
        """
        path = None if not isinstance(model, (str, Path)) else _xml_path(Path(model))
        config = {key: value for key, value in {**SCORING_CONFIG, **(ov_config or {})}.items() if value is not None}
        config.setdefault("PERFORMANCE_HINT", "LATENCY")
        self._tokenizer = tokenizer
        self._constants = constants or {}
        self._name = str(path) if path is not None else "the model"
        if eos_token_ids is None:
            eos_token_ids = end_token_ids(path.parent if path else None, tokenizer)
        self._eos = frozenset(int(token) for token in eos_token_ids)
        compiled = _compile(model if path is None else path, self._name, device, config)
        self._inputs = {name for port in compiled.inputs for name in port.get_names()} & _INPUTS
        self._check_ports(compiled)
        self.properties = _effective_properties(compiled, device, config)
        _check_precision(self.properties, device, config)
        self._compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()
        shape = compiled.output("logits").get_partial_shape()
        width = shape[-1]
        self._vocabulary_size = width.get_length() if width.is_static else None

    def _check_ports(self, compiled: Any) -> None:
        names = sorted(port.get_any_name() for port in compiled.inputs)
        known = _INPUTS | set(self._constants)
        unknown = [port.get_any_name() for port in compiled.inputs if not port.get_names() & known]
        outputs = {name for port in compiled.outputs for name in port.get_names()}
        if unknown or "input_ids" not in self._inputs or "logits" not in outputs:
            raise EvaluationError(
                f"{self._name} is not a stateful causal language model: its inputs are {', '.join(names)} and its "
                f"outputs {', '.join(sorted(outputs))}, but only {', '.join(sorted(_INPUTS))} and logits are known. "
                "Export it again with optimum-intel's OVModelForCausalLM (stateful, task text-generation-with-past)."
            )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer given at construction."""
        return self._tokenizer

    @property
    def vocabulary_size(self) -> int:
        """Width of the logits, V."""
        if self._vocabulary_size is None:
            self._vocabulary_size = int(self._fresh(np.zeros((1, 1), np.int64)).shape[-1])
        return self._vocabulary_size

    def logits(self, tokens: IntArray) -> FloatArray:
        """Logits of whole sequences, int64 [B, T] -> float32 [B, T, V]; see `LanguageModel.logits`."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.ndim != 2 or tokens.size == 0:
            raise ValueError(f"tokens must be a non-empty array [B, T], got shape {tokens.shape}")
        self._check_tokens(tokens)
        return np.array(_finite(self._fresh(tokens), self._name), dtype=np.float32)

    def verify(self, prompt: Sequence[int], draft: Sequence[int], max_new_tokens: int) -> Verification:
        """One pass over prompt and draft; see `LanguageModel.verify`."""
        tokens = np.asarray([[*prompt, *draft]], dtype=np.int64)
        logits = self.logits(tokens)[0, len(prompt) - 1 :]
        return follow_draft(logits, draft, max_new_tokens, self._eos)

    def greedy(self, prompt: Sequence[int], max_new_tokens: int, draft: Sequence[int] = ()) -> list[int]:
        """Greedy continuation of one prompt; see `LanguageModel.greedy`."""
        start: tuple[int, ...] = ()
        if draft:
            verified = self.verify(prompt, draft[:max_new_tokens], max_new_tokens)
            if verified.finished:
                return list(verified.answer)
            start = verified.answer
        return [*start, *self._decode([[*prompt, *start]], [max_new_tokens - len(start)])[0]]

    def greedy_batch(self, prompts: Sequence[Sequence[int]], max_new_tokens: Sequence[int]) -> list[list[int]]:
        """Greedy continuations of many prompts; see `LanguageModel.greedy_batch`.

        Up to 32 prompts of similar length are decoded together, padded on the left. A model that cannot be told
        which positions are padding (no attention_mask or no position_ids) decodes them one by one.
        """
        most = _BATCH_ROWS if {"attention_mask", "position_ids"} <= self._inputs else 1
        batches = max(1, math.ceil(len(prompts) / most))
        rows = max(1, math.ceil(len(prompts) / batches))  # a small last batch would cost nearly as much as a full one
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            decoded = self._decode([prompts[i] for i in chosen], [max_new_tokens[i] for i in chosen])
            for index, answer in zip(chosen, decoded, strict=True):
                answers[index] = answer
        return answers

    def close(self) -> None:
        """Free the compiled model; the object is of no use afterwards."""
        if self._request is None:
            return
        self._request = None
        # A thread of OpenVINO 2026 outlives the compiled model and keeps the activations of its last inference.
        self._compiled.release_memory()
        self._compiled = None

    def __enter__(self) -> OpenVINOLanguageModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
        """Greedy answers of up to _BATCH_ROWS prompts, token by token with the KV cache."""
        answers: list[list[int]] = [[] for _ in prompts]
        open_rows = {row for row, limit in enumerate(limits) if limit > 0}
        if not open_rows:
            return answers
        tokens, mask = _left_padded(prompts)
        self._check_tokens(tokens)
        lengths = mask.sum(axis=1)
        last = self._prefill(tokens, mask)
        while True:
            chosen = last.argmax(axis=-1)
            for row in sorted(open_rows):
                token = int(chosen[row])
                if token not in self._eos:
                    answers[row].append(token)
                if token in self._eos or len(answers[row]) == limits[row]:
                    open_rows.discard(row)
            if not open_rows:
                return answers
            mask = np.concatenate([mask, np.ones((len(prompts), 1), np.int64)], axis=1)
            last = _finite(self._infer(chosen[:, None], mask, lengths[:, None])[:, -1], self._name)
            lengths = lengths + 1

    def _prefill(self, tokens: IntArray, mask: IntArray) -> FloatArray:
        """Fill the cache with [B, T] tokens, some columns at a time so that the logits stay small; the last ones."""
        rows, length = tokens.shape
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        columns = max(1, min(length, _BATCH_BYTES // (4 * rows * self.vocabulary_size)))
        self._open_request().reset_state()
        for start in range(0, length, columns):
            stop = min(start + columns, length)
            logits = self._infer(tokens[:, start:stop], mask[:, :stop], positions[:, start:stop])
        return _finite(logits[:, -1], self._name)

    def _open_request(self) -> Any:
        if self._request is None:
            raise RuntimeError("the language model is closed")
        return self._request

    def _fresh(self, tokens: IntArray) -> FloatArray:
        self._open_request().reset_state()
        positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int64), tokens.shape)
        return self._infer(tokens, np.ones_like(tokens), np.ascontiguousarray(positions))

    def _infer(self, tokens: IntArray, mask: IntArray, positions: IntArray) -> FloatArray:
        """One inference after what the cache holds; the result is a view that the next inference overwrites."""
        values = {
            "input_ids": np.ascontiguousarray(tokens, dtype=np.int64),
            "attention_mask": np.ascontiguousarray(mask, dtype=np.int64),
            "position_ids": np.ascontiguousarray(positions, dtype=np.int64),
            "beam_idx": np.arange(len(tokens), dtype=np.int32),
        }
        feed = {**{name: value for name, value in values.items() if name in self._inputs}, **self._constants}
        try:
            result = self._open_request().infer(feed, share_inputs=True, share_outputs=True)["logits"]
        except RuntimeError as error:
            raise EvaluationError(
                f"{self._name} failed on tokens of shape {list(tokens.shape)}: {_last_line(error)}"
            ) from error
        return np.asarray(result, dtype=np.float32)

    def _check_tokens(self, tokens: IntArray) -> None:
        largest = int(tokens.max())
        if int(tokens.min()) >= 0 and largest < self.vocabulary_size:
            return
        wrong = largest if largest >= self.vocabulary_size else int(tokens.min())
        raise EvaluationError(
            f"{self._name} knows {self.vocabulary_size} tokens, but its tokenizer gave token id {wrong}: the tokenizer "
            "belongs to another model. Use the tokenizer files that were saved with this model."
        )


def end_token_ids(folder: Path | None, tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tokens that end an answer.

    Taken from `generation_config.json` of the model's folder, else its `config.json`, else the tokenizer; empty where
    none names one.
    """
    for name in ("generation_config.json", "config.json"):
        if folder is None or not (folder / name).is_file():
            continue
        found = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    found = getattr(tokenizer, "eos_token_id", None)
    return () if found is None else (int(found),)


def follow_draft(
    logits: FloatArray, draft: Sequence[int], max_new_tokens: int, eos_token_ids: frozenset[int]
) -> Verification:
    """Read a greedy answer off the logits of a draft, up to the first disagreement.

    Args:
        logits: float32 [len(draft) + 1, V]; row i predicts ``draft[i]``.
        draft: token ids without an end-of-text token.
        max_new_tokens: the answer's longest length.
        eos_token_ids: the tokens that end an answer.
    """
    if len(draft) > max_new_tokens:
        raise ValueError(f"a draft of {len(draft)} tokens is longer than max_new_tokens={max_new_tokens}")
    answer: list[int] = []
    for row, token in enumerate(logits.argmax(axis=-1).tolist()):
        if len(answer) == max_new_tokens or token in eos_token_ids:
            return Verification(logits, tuple(answer), finished=True)
        answer.append(token)
        if row == len(draft) or token != draft[row]:
            break
    return Verification(logits, tuple(answer), finished=len(answer) == max_new_tokens)


@cache
def _core() -> Any:
    import openvino as ov

    return ov.Core()


def _xml_path(path: Path) -> Path:
    return path / "openvino_model.xml" if path.is_dir() else path


def _compile(model: ov.Model | Path, name: str, device: str, config: Mapping[str, Any]) -> Any:
    core = _core()
    if isinstance(model, Path):
        if not model.is_file():
            raise EvaluationError(f"{name} does not exist; give the folder or the .xml file of an OpenVINO model.")
        try:
            model = core.read_model(model)
        except RuntimeError as error:
            raise EvaluationError(f"{name} cannot be read as an OpenVINO model: {_last_line(error)}") from error
    try:
        return core.compile_model(model, device, dict(config))
    except RuntimeError as error:
        properties = ", ".join(f"{key}={value}" for key, value in config.items())
        raise EvaluationError(
            f"{name} cannot be compiled for device {device} with {properties}: {_last_line(error)} "
            "Check runtime.device and runtime.ov_config."
        ) from error


def _effective_properties(compiled: Any, device: str, config: Mapping[str, Any]) -> dict[str, str]:
    import openvino as ov

    properties = {"DEVICE": device, "OPENVINO_VERSION": ov.get_version()}
    readers = {key: partial(compiled.get_property, key) for key in (*config, "INFERENCE_NUM_THREADS")}
    readers["FULL_DEVICE_NAME"] = partial(_core().get_property, device, "FULL_DEVICE_NAME")
    for key, read in readers.items():
        # A property may be write-only, or unknown to this device.
        with suppress(RuntimeError):
            properties[key] = _as_text(read())
    return properties


def _check_precision(properties: Mapping[str, str], device: str, config: Mapping[str, Any]) -> None:
    """A score in another precision than the one asked for would look like an error of the weights."""
    for key in SCORING_CONFIG:
        asked = _as_text(config.get(key))
        if key in config and key in properties and properties[key] != asked:
            raise EvaluationError(
                f"{key}={asked} was asked for, but device {device} runs the model with {properties[key]}, so its "
                f"scores would not compare. Set runtime.ov_config.{key} to {properties[key]} if that is meant."
            )


def _as_text(value: Any) -> str:
    """A property's value as OpenVINO spells it: f32, 0, LATENCY."""
    name = getattr(value, "get_type_name", None)
    return str(name()) if callable(name) else str(value)


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Prompts as tokens and attention mask, both int64 [B, longest]; the padding stands before the prompt."""
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt needs at least one token")
    longest = max(len(prompt) for prompt in prompts)
    tokens = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return tokens, mask


def _finite(logits: FloatArray, name: str) -> FloatArray:
    # NaN spreads through min and max, so two reductions see everything without a mask of the array's size.
    if not (np.isfinite(logits.min()) and np.isfinite(logits.max())):
        raise EvaluationError(
            f"{name} gives NaN or infinite logits: a weight was compressed beyond what the model bears, or the model "
            "overflows in the precision of runtime.ov_config."
        )
    return logits


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
