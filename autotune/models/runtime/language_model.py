"""Causal language models run by OpenVINO alone: logits of whole sequences, greedy and sampled continuations.

Neither optimum-intel nor torch is imported, so that worker processes that only score models start fast and stay small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import EvaluationError
from autotune.evaluation.drafts import answers_along
from autotune.models.runtime.compile import (
    check_finite,
    check_precision,
    compile_model,
    effective_properties,
    end_token_ids,
    last_line,
    read_model,
    scoring_properties,
    xml_path,
)
from autotune.models.runtime.decoding import decode, visit_chosen
from autotune.models.runtime.embeddings import IMAGE_ROWS, Embeddings
from autotune.models.runtime.graph import IMAGE_INPUTS, INPUTS, attention_window, why_not_scorable
from autotune.models.runtime.kv_cache import KVCache

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import Choose, FloatArray, IntArray, Visit


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Upper bounds of what runs in one batch. They decide speed and memory, and the last bits of logits.

    Attributes:
        rows: number of sequences.
        tokens: number of sequences times the longest one, in a scan.
        logits_bytes: size of the float32 logits of one inference.
        cache_bytes: size of the KV cache.
        columns: largest number of positions of a pass of a scan; 0 is as many as fit.
        padding: longest sequence in relation to the shortest, in a scan.
    """

    rows: int = 32
    tokens: int = 4096
    logits_bytes: int = 128 * 2**20
    cache_bytes: int = 2**30
    columns: int = 0
    padding: float = 1.1


class OpenVINOLanguageModel:
    """A causal language model compiled by OpenVINO; implements `autotune.evaluation.LanguageModel`.

    Not safe for use by several threads at once: the KV cache is the state of one inference request.

    Attributes:
        properties: the effective runtime properties, read back from the compiled model, as strings.
        source: the `ov.Model` or the path of the .xml file that was compiled.
        embeddings: see `__init__`.
        kv_cache: shape of the states of one token.
        end_token_ids: the tokens that end an answer.
        tokens: number of tokens in forward passes so far, padding included.
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
        limits: BatchLimits | None = None,
        embeddings: Embeddings | None = None,
    ) -> None:
        """Compile `model` for `device`.

        Args:
            model: a stateful causal language model as optimum-intel exports it (input_ids, and attention_mask,
                position_ids, cache_position, beam_idx where it has them; output logits), or the path of its .xml or of
                its folder.
            tokenizer: the `transformers` tokenizer.
            device: an OpenVINO device.
            ov_config: runtime properties, laid over `SCORING_CONFIG`; a value of None leaves that property to
                OpenVINO and the model.
            eos_token_ids: tokens that end an answer; by default `end_token_ids` of the model's folder and tokenizer.
            constants: further inputs of the model and their values; the mapping is read at every inference.
            limits: sizes of batches; the defaults of `BatchLimits` if None.
            embeddings: of a model whose input is inputs_embeds instead of input_ids.

        Raises:
            EvaluationError: the model cannot be read, is not such a model, cannot be compiled with these properties,
                or the device does not honour the precision asked for.
        """
        path = None if not isinstance(model, (str, Path)) else xml_path(Path(model))
        config = scoring_properties(ov_config)
        config.setdefault("PERFORMANCE_HINT", "LATENCY")
        if device == "CPU":
            # OpenVINO 2026.4 caches kernels by input shape and keeps them after the compiled model is released: about
            # 35 MB for each model that decodes. Without this cache decoding takes 3% longer.
            config.setdefault("CPU_RUNTIME_CACHE_CAPACITY", 0)
        self._tokenizer = tokenizer
        self._constants = {} if constants is None else constants
        self._limits = BatchLimits() if limits is None else limits
        self.embeddings = embeddings
        self.source = model if path is None else path
        self._name = str(path) if path is not None else "the model"
        if eos_token_ids is None:
            eos_token_ids = end_token_ids(path.parent if path else None, tokenizer)
        self.end_token_ids = frozenset(int(token) for token in eos_token_ids)
        graph = model if path is None else read_model(path, self._name)
        self._window = attention_window(graph)
        compiled = compile_model(graph, self._name, device, config)
        names = {name for port in compiled.inputs for name in port.get_names()}
        self._inputs = names & INPUTS
        self._image_inputs = names & {"inputs_embeds", *IMAGE_INPUTS} if embeddings is not None else frozenset()
        self._check_ports(compiled)
        self.properties = effective_properties(compiled, device, config)
        check_precision(self.properties, device, config)
        self.tokens = 0
        self._compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()
        shape = compiled.output("logits").get_partial_shape()
        width = shape[-1]
        self._vocabulary_size = width.get_length() if width.is_static else None
        self.kv_cache = KVCache.of(self._request.query_state())

    def _check_ports(self, compiled: Any) -> None:
        tokens = "input_ids" if self.embeddings is None else "inputs_embeds"
        fed = {*self._constants, *self._image_inputs}
        problem = why_not_scorable(compiled.inputs, compiled.outputs, fed=fed, tokens=tokens)
        if problem is not None:
            raise EvaluationError(f"{self._name} {problem}")

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

    @property
    def takes_images(self) -> bool:
        """Return True for a model in parts; see `LanguageModel.takes_images`."""
        return self.embeddings is not None

    def prompt(self, text: str, image: Path | None) -> list[int]:
        """Lay out a prompt; see `LanguageModel.prompt`."""
        if self.embeddings is None:
            raise EvaluationError(f"{self._name} takes no images; use prompts without the key image.")
        return self.embeddings.prompt(text, image)

    def logits(self, tokens: IntArray) -> FloatArray:
        """Logits of whole sequences, int64 [B, T] -> float32 [B, T, V]; see `LanguageModel.logits`."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.ndim != 2 or tokens.size == 0:
            raise ValueError(f"tokens must be a non-empty array [B, T], got shape {tokens.shape}")
        self._check_tokens(tokens)
        return np.array(check_finite(self._fresh(tokens), self._name), dtype=np.float32)

    def scan(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Iterator[tuple[int, int, FloatArray]]:
        """Logits along sequences in bounded memory; see `LanguageModel.scan`."""
        lengths = [len(sequence) for sequence in sequences]
        whole = self.kv_cache.recurrent or self._keeps_images_whole(sequences)
        for batch in self._scan_batches(lengths, columns=max(lengths, default=1) if whole else 64):
            tokens = self._padded([sequences[index] for index in batch])
            columns = max(1, self._limits.logits_bytes // (4 * len(batch) * self.vocabulary_size))
            columns = min(columns, self._limits.columns or columns)
            columns = tokens.shape[1] if whole else columns
            for start in range(0, tokens.shape[1], columns):
                piece = tokens[:, start : start + columns]
                stop = start + piece.shape[1]
                positions = np.broadcast_to(np.arange(start, stop), piece.shape)
                logits = self._infer(piece, np.ones((len(batch), stop), np.int64), positions, fresh=start == 0)
                for row, index in enumerate(batch):
                    begin, end = max(start, first[index]), min(stop, len(sequences[index]))
                    if begin < end:
                        yield index, begin, check_finite(logits[row, begin - start : end - start], self._name)

    def _keeps_images_whole(self, sequences: Sequence[Sequence[int]]) -> bool:
        """Return True if there are images, which must be in the first inference; see `Embeddings.inputs`."""
        if not IMAGE_INPUTS & self._image_inputs:
            return False
        return any(max(sequence, default=0) >= IMAGE_ROWS for sequence in sequences)

    def _padded(self, sequences: Sequence[Sequence[int]]) -> IntArray:
        """Sequences as rows of one array, int64 [B, T]."""
        tokens = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
        for row, sequence in zip(tokens, sequences, strict=True):
            row[: len(sequence)] = sequence  # attention is causal, so padding at the end changes nothing
        self._check_tokens(tokens)
        return tokens

    def _scan_batches(self, lengths: Sequence[int], *, columns: int = 64) -> list[list[int]]:
        """Group sequences of similar length into batches, as a function of lengths and model alone.

        A batch is small enough that each pass can have `columns` positions.
        """
        limits = self._limits
        wide = max(1, limits.logits_bytes // (4 * columns * self.vocabulary_size))
        batches: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            longest = lengths[batches[-1][0]] if batches else 0
            room = min(limits.rows, wide, limits.tokens // max(longest, 1), self._cache_rows(longest))
            if batches and len(batches[-1]) < room and longest <= limits.padding * lengths[index]:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _cache_rows(self, columns: int) -> int:
        """Return the number of sequences of `columns` tokens that the KV cache may hold."""
        return self._limits.cache_bytes // max(1, columns * self.kv_cache.token_bytes("f32"))

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Greedy continuation of one prompt, one token after the other; see `LanguageModel.greedy`."""
        answer: list[int] = []
        tokens = np.asarray([prompt], np.int64)
        if not tokens.size:
            raise ValueError("a prompt needs at least one token")
        self._check_tokens(tokens)
        length = 0
        while len(answer) < max_new_tokens:
            positions = np.arange(length, length + tokens.shape[1])[None]
            length += tokens.shape[1]
            logits = self._infer(tokens, np.ones((1, length), np.int64), positions, fresh=not answer)
            token = int(check_finite(logits[0, -1], self._name).argmax())
            if token in self.end_token_ids:
                break
            answer.append(token)
            tokens = np.array([[token]], np.int64)
        return answer

    def greedy_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        drafts: Sequence[Sequence[int]] | None = None,
        visit: Visit | None = None,
    ) -> list[list[int]]:
        """Greedy continuations of many prompts, decoded together; see `LanguageModel.greedy_batch`.

        A model without the inputs attention_mask, position_ids and beam_idx cannot mask padding, and recurrent states
        cannot go back behind a rejected token: such models decode prompts one by one.
        """
        if not all(len(prompt) for prompt in prompts):
            raise ValueError("a prompt needs at least one token")
        drafts = [()] * len(prompts) if drafts is None else drafts
        longest = max((len(p) + limit for p, limit in zip(prompts, max_new_tokens, strict=True)), default=1)
        longest += max(map(len, drafts), default=0) if visit else 0
        alone = self.kv_cache.recurrent or not {"attention_mask", "position_ids", "beam_idx"} <= self._inputs
        if visit and (alone or (self._window is not None and longest > self._window)):
            return answers_along(self, prompts, max_new_tokens, drafts, visit)
        if alone:
            return [self.greedy(prompt, limit) for prompt, limit in zip(prompts, max_new_tokens, strict=True)]
        most = max(1, min(self._limits.rows, self._cache_rows(longest)))
        prefill_tokens = self._limits.logits_bytes // (4 * self.vocabulary_size)
        whole = self._keeps_images_whole(prompts)
        most = max(1, min(most, prefill_tokens // longest)) if whole else most
        batches = max(1, -(-len(prompts) // most))
        rows = max(1, -(-len(prompts) // batches))  # a small last batch takes nearly as long as a full one
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            fed = [token for index in chosen for token in (*prompts[index], *(drafts[index] if visit else ()))]
            self._check_tokens(np.asarray(fed, np.int64))
            decoded = decode(
                self._checked_infer,
                [prompts[index] for index in chosen],
                [max_new_tokens[index] for index in chosen],
                [drafts[index] for index in chosen],
                self.end_token_ids,
                prefill_tokens=prefill_tokens,
                whole_prompts=whole,
                window=self._window,
                visit=None if visit is None else visit_chosen(visit, chosen),
            )
            for index, answer in zip(chosen, decoded, strict=True):
                answers[index] = answer
        return answers

    def sample_batch(self, prompts: IntArray, length: int, choose: Choose) -> list[list[int]]:
        """Continue prompts together by tokens of the caller's choice; see `LanguageModel.sample_batch`."""
        self._check_tokens(prompts)
        most = max(1, min(self._limits.rows, self._cache_rows(length))) if "beam_idx" in self._inputs else 1
        texts: list[list[int]] = np.asarray(prompts).tolist()
        for start in range(0, len(texts), most):
            self._sample(texts, np.arange(start, min(start + most, len(texts))), length, choose)
        return texts

    def _sample(self, texts: list[list[int]], still_open: IntArray, length: int, choose: Choose) -> None:
        """Continue those texts in place."""
        tokens = np.array([texts[index] for index in still_open], np.int64)
        rows = np.arange(len(still_open))  # of the KV cache
        for position in range(tokens.shape[1], length):
            mask = np.ones((len(still_open), position), np.int64)
            positions = np.broadcast_to(np.arange(position - tokens.shape[1], position), tokens.shape)
            chosen = choose(still_open, position, self._checked_infer(tokens, mask, positions, rows)[:, -1])
            for index, token in zip(still_open, chosen.tolist(), strict=True):
                texts[index].append(token)
            rows = np.flatnonzero(~np.isin(chosen, list(self.end_token_ids)))
            still_open, tokens = still_open[rows], chosen[rows, None]
            if not len(rows):
                break

    def _checked_infer(self, tokens: IntArray, mask: IntArray, positions: IntArray, rows: IntArray) -> FloatArray:
        """Run an inference for `decode` and check its logits; those of masked positions may be NaN."""
        fresh = mask.shape == tokens.shape
        logits = self._infer(tokens, mask, positions, rows, fresh=fresh)
        visible = mask[:, -tokens.shape[1] :] > 0
        check_finite(np.stack([logits.min(axis=-1), logits.max(axis=-1)], axis=-1)[visible], self._name)
        return logits

    def close(self) -> None:
        """Free the compiled model; no other method may be called afterwards."""
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

    def _fresh(self, tokens: IntArray) -> FloatArray:
        positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int64), tokens.shape)
        return self._infer(tokens, np.ones_like(tokens), positions, fresh=True)

    def _infer(
        self,
        tokens: IntArray,
        mask: IntArray,
        positions: IntArray,
        rows: IntArray | None = None,
        *,
        fresh: bool,
    ) -> FloatArray:
        """Run one inference that continues the KV cache; the next inference overwrites the returned view.

        Row i continues row ``rows[i]`` of the cache (row i by default). With `fresh` the cache is emptied first.
        """
        request = self._request
        if request is None:
            raise RuntimeError("the language model is closed")
        self.tokens += tokens.size
        if fresh:
            request.reset_state()
        values = {
            "input_ids": np.ascontiguousarray(tokens, dtype=np.int64),
            "attention_mask": np.ascontiguousarray(mask, dtype=np.int64),
            "position_ids": np.ascontiguousarray(positions, dtype=np.int64),
            "cache_position": np.ascontiguousarray(positions[0], dtype=np.int64),
            "beam_idx": (np.arange(len(tokens)) if rows is None else rows).astype(np.int32),
        }
        feed = {**{name: value for name, value in values.items() if name in self._inputs}, **self._constants}
        if self.embeddings is not None:
            of_images = self.embeddings.inputs(tokens)
            feed |= {name: value for name, value in of_images.items() if name in self._image_inputs}
        try:
            result = request.infer(feed, share_inputs=True, share_outputs=True)["logits"]
        except RuntimeError as error:
            raise EvaluationError(
                f"{self._name} failed on tokens of shape {list(tokens.shape)}: {last_line(error)}"
            ) from error
        return np.asarray(result, dtype=np.float32)

    def _check_tokens(self, tokens: IntArray) -> None:
        if self.embeddings is not None:
            tokens = np.where(tokens < IMAGE_ROWS, tokens, 0)  # these are made by the embeddings themselves
        largest = int(tokens.max())
        if int(tokens.min()) >= 0 and largest < self.vocabulary_size:
            return
        wrong = largest if largest >= self.vocabulary_size else int(tokens.min())
        raise EvaluationError(
            f"{self._name} knows {self.vocabulary_size} tokens, but its tokenizer gave token id {wrong}: the tokenizer "
            "belongs to another model. Use the tokenizer files that were saved with this model."
        )
