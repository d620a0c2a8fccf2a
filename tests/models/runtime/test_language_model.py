"""The OpenVINO language model: logits, greedy answers, drafts, batches, properties, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from builders import named, normal
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

from autotune.errors import EvaluationError
from autotune.evaluation import SCORING_CONFIG, follow_draft
from autotune.evaluation.drafts import answers_along
from autotune.models.runtime.compile import check_precision, end_token_ids
from autotune.models.runtime.graph import attention_window
from autotune.models.runtime.language_model import BatchLimits, OpenVINOLanguageModel

PROMPTS = ["Mira keeps", "the ledger is opened, and the", "eggs", "When the river is high, her brother rows", "?"]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tokenizer: Any) -> Iterator[OpenVINOLanguageModel]:
    with OpenVINOLanguageModel(tiny_llama, tokenizer) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


def _step_by_step(model: OpenVINOLanguageModel, prompt: list[int], limit: int, eos: frozenset[int]) -> list[int]:
    """Greedy decoding without any cache: the oracle."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        token = int(model.logits(np.array([tokens]))[0, -1].argmax())
        if token in eos:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def test_logits_equal_those_of_the_exported_model(
    model: OpenVINOLanguageModel, tiny_llama_hf: Path, prompts: list[list[int]]
) -> None:
    """Logits are those of the Hugging Face model, within float32 rounding."""
    import torch
    from transformers import LlamaForCausalLM

    original = LlamaForCausalLM.from_pretrained(tiny_llama_hf, dtype=torch.float32).eval()
    tokens = np.array([prompts[3], prompts[3][::-1]])
    with torch.no_grad():
        expected = original(torch.from_numpy(tokens)).logits.numpy()
    logits = model.logits(tokens)
    assert logits.dtype == np.float32
    assert logits.shape == (*tokens.shape, model.vocabulary_size)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_sequences_are_scored_afresh(model: OpenVINOLanguageModel, prompts: list[list[int]]) -> None:
    """Nothing stays in the cache between calls, and a result is not overwritten by the next call."""
    first = model.logits(np.array([prompts[1]]))
    kept = first.copy()
    model.greedy(prompts[0], 5)
    again = model.logits(np.array([prompts[1]]))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(again, kept)


def test_greedy_equals_decoding_without_cache(model: OpenVINOLanguageModel, prompts: list[list[int]]) -> None:
    """The KV cache changes the cost of an answer and not the answer."""
    for prompt in prompts:
        assert model.greedy(prompt, 12) == _step_by_step(model, prompt, 12, frozenset({0}))


def test_answers_differ_from_prompt_to_prompt(model: OpenVINOLanguageModel, prompts: list[list[int]]) -> None:
    """The tiny model's greedy text is not degenerate, so the other laws here say something."""
    answers = [model.greedy(prompt, 12) for prompt in prompts]
    assert len({tuple(answer) for answer in answers}) == len(answers)
    assert max(len(set(answer)) for answer in answers) > 4


def test_batch_equals_one_by_one(model: OpenVINOLanguageModel, prompts: list[list[int]]) -> None:
    """Prompts of different lengths and limits, decoded together, give what each gives alone."""
    limits = [16, 3, 0, 9, 1]
    assert model.greedy_batch(prompts, limits) == [
        model.greedy(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)
    ]


def test_batches_are_split_and_put_back_in_order(
    model: OpenVINOLanguageModel, tiny_llama: Path, tokenizer: Any, prompts: list[list[int]]
) -> None:
    """More prompts than fit into one batch, and a prefill in small steps, give the same answers in the same order."""
    expected = model.greedy_batch(prompts, [8] * len(prompts))
    limits = BatchLimits(rows=2, logits_bytes=4 * 2 * 3 * model.vocabulary_size)
    with OpenVINOLanguageModel(tiny_llama, tokenizer, limits=limits) as small:
        assert small.greedy_batch(prompts, [8] * len(prompts)) == expected


def test_no_prompts_no_answers(model: OpenVINOLanguageModel) -> None:
    """An empty batch is an empty list."""
    assert model.greedy_batch([], []) == []


@pytest.mark.parametrize("agreeing", [0, 1, 5, 12])
def test_a_draft_does_not_change_the_answer(
    model: OpenVINOLanguageModel, prompts: list[list[int]], agreeing: int
) -> None:
    """Whatever part of a draft is right, and wherever in it, the answers are the plain ones."""
    plain = [model.greedy(prompt, 12) for prompt in prompts]
    wrong = [[(token + 1) % 300 + 1 for token in answer[agreeing:]] for answer in plain]
    for drafts in (
        [answer[:agreeing] + other for answer, other in zip(plain, wrong, strict=True)],
        [other + answer[12 - agreeing :] for answer, other in zip(plain, wrong, strict=True)],
        [[7, *prompt[-2:], *answer] for prompt, answer in zip(prompts, plain, strict=True)],
    ):
        assert model.greedy_batch(prompts, [12] * len(prompts), drafts) == plain


@pytest.mark.parametrize("length", [6, 40])
def test_rejected_drafts_take_no_room_in_a_sliding_window(length: int, family_folder: Callable[[str], Path]) -> None:
    """Mistral's attention looks back 32 columns of the cache, before and behind which texts end here."""
    folder = family_folder("mistral") / "ov"
    rng = np.random.default_rng(length)
    prompts = [rng.integers(1, 320, length - i).tolist() for i in range(3)]
    with OpenVINOLanguageModel(folder, None, eos_token_ids=[]) as model:
        plain = [model.greedy(prompt, 30) for prompt in prompts]
        assert plain == [_step_by_step(model, prompt, 30, frozenset()) for prompt in prompts]
        texts = [prompt[-3:] + answer for prompt, answer in zip(prompts, plain, strict=True)]
        drafts = [[token for t in range(3, len(text)) for token in (*text[t - 3 : t + 1], 7)] for text in texts]
        assert model.greedy_batch(prompts, [30] * 3, drafts) == plain
    assert attention_window(ov.Core().read_model(folder / "openvino_model.xml")) == 32
    assert attention_window(ov.Core().read_model(family_folder("qwen2") / "ov" / "openvino_model.xml")) is None


def test_a_right_draft_saves_inferences(
    model: OpenVINOLanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that repeats n-grams of the draft is decoded in fewer passes than tokens."""
    passes = 0
    infer = model._infer

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal passes
        passes += 1
        return infer(*arguments, **options)

    plain = model.greedy(prompts[3], 24)
    monkeypatch.setattr(model, "_infer", counted)
    assert model.greedy_batch(prompts[3:4], [24], [[*prompts[3][-3:], *plain]]) == [plain]
    assert passes < 12


def _scanned(model: OpenVINOLanguageModel, sequences: list[list[int]], first: list[int]) -> list[np.ndarray]:
    pieces: list[list[np.ndarray]] = [[] for _ in sequences]
    at = list(first)
    for index, position, logits in model.scan(sequences, first):
        assert position == at[index]
        at[index] += len(logits)
        pieces[index].append(logits.copy())
    return [np.concatenate(parts) for parts in pieces]


@pytest.mark.parametrize("family", ["llama", "mistral", "lfm2"])
def test_a_pass_along_drafts_gives_what_a_scan_and_decoding_give(
    family: str, tiny_llama: Path, family_folder: Callable[[str], Path], tokenizer: Any, prompts: list[list[int]]
) -> None:
    """Wherever an answer leaves its draft: the same logits along the draft, the same answer; but fewer tokens are run.

    A window too small for rejected drafts, and recurrent states, take the two passes.
    """
    folder = tiny_llama if family == "llama" else family_folder(family) / "ov"
    limits = [12, 7, 1, 12, 5]
    batches = BatchLimits(rows=3, logits_bytes=4 * 320 * 3 * 5)
    with OpenVINOLanguageModel(folder, tokenizer, eos_token_ids=[], limits=batches) as model:
        plain = [model.greedy(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
        drafts = [plain[0], [*plain[1][:3], 5, *plain[1][4:]], plain[2], [], [9, *plain[4][1:3]]]
        along = [[*p, *draft[: limit - 1]] for p, draft, limit in zip(prompts, drafts, limits, strict=True)]
        first = [len(prompt) - 1 for prompt in prompts]
        expected = _scanned(model, along, first)
        pieces: list[list[np.ndarray]] = [[] for _ in prompts]

        def visit(index: int, position: int, logits: np.ndarray) -> None:
            assert position == first[index] + sum(map(len, pieces[index]))
            pieces[index].append(logits.copy())

        before = model.tokens
        assert model.greedy_batch(prompts, limits, drafts, visit) == plain
        together = model.tokens - before
        for found, row in zip(pieces, expected, strict=True):
            np.testing.assert_allclose(np.concatenate(found), row, rtol=1e-3, atol=1e-4)
        before = model.tokens
        answers_along(model, prompts, limits, drafts, lambda *_: None)
        assert (together < model.tokens - before) == (family == "llama")


@pytest.mark.parametrize("columns", [1000, 7])
def test_a_scan_gives_the_logits_of_each_sequence_alone(
    model: OpenVINOLanguageModel, tiny_llama: Path, tokenizer: Any, prompts: list[list[int]], columns: int
) -> None:
    """Sequences of different lengths, in pieces of any width, have the logits that each has alone."""
    sequences = [*prompts, prompts[3][:-1], prompts[3] + prompts[1]]
    first = [0, 2, 0, 5, 0, 1, 9]
    limits = BatchLimits(padding=3.0, logits_bytes=4 * model.vocabulary_size * 64 * columns)
    with OpenVINOLanguageModel(tiny_llama, tokenizer, limits=limits) as other:
        for sequence, start, logits in zip(sequences, first, _scanned(other, sequences, first), strict=True):
            np.testing.assert_allclose(logits, model.logits(np.array([sequence]))[0, start:], rtol=1e-3, atol=1e-4)


def recurrent() -> ov.Model:
    """Each call adds the last token of the call before to all its tokens, as no layer that reads a cache does."""
    tokens = named(ops.parameter([-1, -1], np.int64), "input_ids")
    rows = named(ops.parameter([-1], np.int32), "beam_idx")
    vectors = ops.gather(ops.constant(normal(320, 8)), tokens, 0)
    start = ops.broadcast(ops.constant(np.zeros((1, 8), np.float32)), ops.concat([ops.shape_of(rows), [8]], 0))
    state = ops.read_value(start, "cache_params.past.ssm.0", ov.Type.f32, ov.PartialShape([-1, 8]))
    logits = ops.matmul(ops.add(vectors, ops.unsqueeze(state, 1)), normal(320, 8, seed=1), False, True)
    logits.output(0).set_names({"logits"})
    for parameter in (tokens, rows):
        parameter.output(0).set_names({parameter.get_friendly_name()})
    last = ops.squeeze(ops.gather(vectors, ops.constant(np.array([-1])), 1), 1)
    return ov.Model([ops.result(logits)], [ops.assign(last, "cache_params.past.ssm.0")], [tokens, rows], "recurrent")


def test_recurrent_layers_get_whole_sequences(tokenizer: Any, prompts: list[list[int]]) -> None:
    """Their states forget neither padding nor rejected proposals, and may not be continued by several tokens."""
    limits = BatchLimits(padding=3.0, logits_bytes=1)
    with OpenVINOLanguageModel(recurrent(), tokenizer, limits=limits) as model:
        for sequence, logits in zip(prompts, _scanned(model, prompts, [0] * len(prompts)), strict=True):
            np.testing.assert_array_equal(logits, model.logits(np.array([sequence]))[0])
        alone = [model.greedy(prompt, 8) for prompt in prompts]
        assert model.greedy_batch(prompts, [8] * len(prompts), drafts=alone) == alone


def test_batches_of_a_scan_are_of_similar_length(model: OpenVINOLanguageModel) -> None:
    """Padding costs a tenth at most, no batch is larger than memory allows, and every sequence is in one."""
    lengths = [9, 100, 104, 5, 96, 2000, 2100, 1999, *[7] * 70]
    batches = model._scan_batches(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        inside = [lengths[index] for index in batch]
        assert max(inside) <= 1.1 * min(inside)
        assert len(batch) <= 32
        assert len(batch) == 1 or len(batch) * max(inside) <= 4096


def test_long_cached_sequences_run_in_smaller_batches(
    model: OpenVINOLanguageModel, tiny_llama: Path, tokenizer: Any, prompts: list[list[int]]
) -> None:
    """A batch's KV cache is bounded; the answers stay the same."""
    plain = model.greedy_batch(prompts, [6] * len(prompts))
    assert model.kv_cache.token_bytes("f32") == 2 * 2 * 2 * 16 * 4  # keys and values, 2 layers, 2 heads of 16
    with OpenVINOLanguageModel(tiny_llama, tokenizer, limits=BatchLimits(cache_bytes=1)) as alone:
        assert {len(batch) for batch in alone._scan_batches([5] * 9)} == {1}
        assert alone.greedy_batch(prompts, [6] * len(prompts)) == plain


def test_answers_end_before_an_end_token(tiny_llama: Path, tokenizer: Any, prompts: list[list[int]]) -> None:
    """Each of several end tokens ends an answer, alone, in a batch and in a draft, and is not part of it."""
    with OpenVINOLanguageModel(tiny_llama, tokenizer, eos_token_ids=[]) as endless:
        plain = endless.greedy_batch(prompts, [12] * len(prompts))
    ends = (plain[0][4], plain[1][2])
    cut = [answer[: next((i for i, token in enumerate(answer) if token in ends), None)] for answer in plain]
    assert len(cut[0]) <= 4
    with OpenVINOLanguageModel(tiny_llama, tokenizer, eos_token_ids=ends) as model:
        assert model.greedy_batch(prompts, [12] * len(prompts)) == cut
        assert model.greedy(prompts[0], 12) == cut[0]
        assert model.greedy_batch(prompts, [12] * len(prompts), plain) == cut


def test_effective_properties_are_those_for_scoring(model: OpenVINOLanguageModel) -> None:
    """The model runs in float32 with a float32 cache, although its file asks for another, and says so."""
    assert model.properties["INFERENCE_PRECISION_HINT"] == "f32"
    assert model.properties["KV_CACHE_PRECISION"] == "f32"
    assert model.properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"
    assert model.properties["PERFORMANCE_HINT"] == "LATENCY"
    assert {"INFERENCE_NUM_THREADS", "FULL_DEVICE_NAME", "OPENVINO_VERSION", "DEVICE"} <= set(model.properties)


def test_configuration_wins_over_scoring_defaults(tiny_llama: Path, tokenizer: Any) -> None:
    """A property that is given is used, and None leaves one to the model's own setting."""
    config = {"KV_CACHE_PRECISION": "u8", "INFERENCE_NUM_THREADS": 1}
    with OpenVINOLanguageModel(tiny_llama, tokenizer, ov_config=config) as model:
        assert model.properties["KV_CACHE_PRECISION"] == "u8"
        assert model.properties["INFERENCE_NUM_THREADS"] == "1"
        assert model.properties["INFERENCE_PRECISION_HINT"] == "f32"
    with OpenVINOLanguageModel(tiny_llama, tokenizer, ov_config={"KV_CACHE_PRECISION": None}) as model:
        assert model.properties["KV_CACHE_PRECISION"] != "f32"


def test_a_property_not_honoured_is_an_error(tiny_llama: Path, tokenizer: Any) -> None:
    """A precision that the device silently replaces is refused with both values named."""
    with pytest.raises(EvaluationError, match=r"INFERENCE_PRECISION_HINT=f32 was requested.*bf16"):
        check_precision({"INFERENCE_PRECISION_HINT": "bf16"}, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # OpenVINO reads this number up to its first letter.
    with pytest.raises(EvaluationError, match=r"DYNAMIC_QUANTIZATION_GROUP_SIZE=1e2 was requested.*with 1,"):
        OpenVINOLanguageModel(tiny_llama, tokenizer, ov_config={"DYNAMIC_QUANTIZATION_GROUP_SIZE": "1e2"})


def test_unknown_property_is_an_error(tiny_llama: Path, tokenizer: Any) -> None:
    """A property that does not exist is refused with its name and the key to look at."""
    with pytest.raises(EvaluationError, match=r"NO_SUCH_THING=1.*runtime\.ov_config"):
        OpenVINOLanguageModel(tiny_llama, tokenizer, ov_config={"NO_SUCH_THING": 1})


def test_missing_model_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    """A folder without a model is refused with its path."""
    with pytest.raises(EvaluationError, match=r"openvino_model\.xml does not exist"):
        OpenVINOLanguageModel(tmp_path, tokenizer)


def test_token_outside_the_vocabulary_is_an_error(model: OpenVINOLanguageModel) -> None:
    """A tokenizer of another model is noticed by its first impossible token."""
    with pytest.raises(EvaluationError, match=r"320 tokens.*token id 320"):
        model.logits(np.array([[1, 320]]))
    with pytest.raises(EvaluationError, match="token id -1"):
        model.greedy([-1], 3)


def test_other_graphs_are_refused(tokenizer: Any) -> None:
    """A model with unknown inputs is not taken for a language model."""
    import openvino as ov
    from openvino import opset13 as ops

    pixels = ops.parameter([1, 3], np.float32, name="pixels")
    other = ov.Model([ops.relu(pixels)], [pixels], "other")
    other.inputs[0].set_names({"pixels"})
    with pytest.raises(EvaluationError, match=r"inputs are pixels.*Export it again"):
        OpenVINOLanguageModel(other, tokenizer)


def test_recurrent_states_get_whole_sequences_and_single_tokens(tokenizer: Any) -> None:
    """A state without a length (Mamba) is never continued by several tokens, nor taken back."""
    import openvino as ov
    from openvino import opset15 as ops

    rng = np.random.default_rng(0)
    width, vocabulary = 8, len(tokenizer)
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    rows = ops.parameter([-1], np.int32, name="beam_idx")
    zero = ops.constant(np.int64(0))
    table = ops.constant(rng.normal(size=(vocabulary, width)).astype(np.float32))
    batch = ops.gather(ops.shape_of(ids), ops.constant(np.array([0])), zero)
    start = ops.broadcast(ops.constant(np.float32(0)), ops.concat([batch, ops.constant(np.array([width]))], 0))
    info = ov.op.util.VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape([-1, width]), ov.Type.f32, "recurrent"
    variable = ov.op.util.Variable(info)
    read = ops.gather(ops.read_value(start, variable), rows, zero)
    sums = ops.add(ops.cum_sum(ops.gather(table, ids, zero), ops.constant(np.int64(1))), ops.unsqueeze(read, 1))
    last = ops.gather(sums, ops.constant(np.int64(-1)), ops.constant(np.int64(1)))
    logits = ops.matmul(ops.tanh(sums), table, False, True)
    graph = ov.Model([ops.result(logits)], [ops.assign(last, variable)], [ids, rows], "recurrent")
    graph.inputs[0].set_names({"input_ids"})
    graph.inputs[1].set_names({"beam_idx"})
    graph.outputs[0].set_names({"logits"})
    sequences = [rng.integers(0, vocabulary, 40).tolist() for _ in range(3)]
    with OpenVINOLanguageModel(
        graph, tokenizer, eos_token_ids=[], limits=BatchLimits(logits_bytes=4 * vocabulary * 7)
    ) as model:
        lengths: list[int] = []
        infer = model._infer

        def counted(tokens: Any, *rest: Any, **more: Any) -> Any:
            lengths.append(tokens.shape[1])
            return infer(tokens, *rest, **more)

        model._infer = counted  # type: ignore[method-assign]
        assert [piece.shape[0] for _, _, piece in model.scan(sequences, [0, 0, 0])] == [40, 40, 40]
        assert lengths == [40, 40, 40]
        lengths.clear()
        answers = model.greedy_batch(sequences, [5, 5, 5], sequences)
        assert set(lengths) == {40, 1}
        for sequence, answer in zip(sequences, answers, strict=True):
            for token in answer:
                assert model.logits(np.array([sequence]))[0, -1].argmax() == token
                sequence.append(token)


def test_nan_logits_are_an_error(tiny_llama: Path, tokenizer: Any, prompts: list[list[int]]) -> None:
    """A weight that is NaN ends in an EvaluationError, from logits and from answers."""
    import openvino as ov
    from openvino import opset13 as ops

    broken = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    result = broken.get_results()[0]
    nan = ops.constant(np.full((1,), np.nan, np.float32))
    names = broken.outputs[0].get_names()
    source = result.input_value(0)
    result.input(0).replace_source_output(ops.add(source, nan).output(0))
    broken.outputs[0].set_names(names)
    with OpenVINOLanguageModel(broken, tokenizer) as model:
        for act in (
            lambda: model.logits(np.array([[1, 2]])),
            lambda: model.greedy(prompts[0], 3),
            lambda: model.greedy_batch(prompts, [3] * len(prompts)),
            lambda: list(model.scan(prompts, [0] * len(prompts))),
        ):
            with pytest.raises(EvaluationError, match="NaN or infinite logits"):
                act()


def test_a_closed_model_says_so(tiny_llama: Path, tokenizer: Any) -> None:
    """After close the memory is free and any use is a programming error."""
    model = OpenVINOLanguageModel(tiny_llama, tokenizer)
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.logits(np.array([[1, 2]]))


def test_a_closed_model_gives_its_memory_back(tiny_llama: Path, tokenizer: Any) -> None:
    """A study opens one model a trial: what the inferences of one needed must not stay for the next."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")

    def resident() -> int:
        return next(
            int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("RssAnon")
        )

    tokens = np.ones((64, 512), np.int64)
    after = []
    for _ in range(4):
        with OpenVINOLanguageModel(tiny_llama, tokenizer) as model:
            logits_bytes = model.logits(tokens).nbytes
        after.append(resident())
    assert after[-1] - after[0] < logits_bytes  # three times as much if each model kept its last logits


def test_end_tokens_come_from_the_folder_first(tmp_path: Path) -> None:
    """generation_config.json decides, then config.json, then the tokenizer."""

    class Tokenizer:
        eos_token_id = 7

    assert end_token_ids(tmp_path, Tokenizer()) == (7,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert end_token_ids(tmp_path, Tokenizer()) == (5,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    assert end_token_ids(tmp_path, Tokenizer()) == (3, 4)
    assert end_token_ids(None, object()) == ()


@given(
    best=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    draft=st.lists(st.integers(1, 3), max_size=7),
    extra=st.integers(0, 2),
)
def test_following_a_draft_reads_the_greedy_answer(best: list[int], draft: list[int], extra: int) -> None:
    """The answer is the preferred tokens up to a disagreement; an end of text or its length finishes it."""
    draft = draft[: len(best) - 1]
    best = best[: len(draft) + 1]
    limit = len(draft) + extra
    answer, finished = follow_draft(best, draft, limit, frozenset({0}))
    assert 0 not in answer
    assert len(answer) <= limit
    assert answer == best[: len(answer)]
    assert answer[:-1] == draft[: max(0, len(answer) - 1)]
    ended = len(answer) == limit or (len(answer) < len(best) and best[len(answer)] == 0)
    agreed = answer == draft[: len(answer)]
    assert finished == (len(answer) == limit or (ended and agreed))


def test_scoring_needs_neither_torch_nor_optimum(tiny_llama: Path) -> None:
    """Compiling and running a model imports no torch, transformers or optimum; importing the module no openvino."""
    code = (
        "import sys, numpy as np, autotune.models.runtime.language_model as r\n"
        "assert 'openvino' not in sys.modules\n"
        "model = r.OpenVINOLanguageModel(sys.argv[1], None, eos_token_ids=[0])\n"
        "model.logits(np.array([[1, 2, 3]])); model.greedy([1, 2], 3)\n"
        "assert not {'torch', 'transformers', 'optimum', 'nncf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_llama)], check=True, timeout=120)


def test_scoring_config_is_float32_throughout() -> None:
    """The scoring properties are the three that otherwise blur what the weights cost."""
    assert SCORING_CONFIG == {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
