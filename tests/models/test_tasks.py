"""Tasks: found by name and from a model's files; a task of one's own takes one file, which is this one."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

import autotune
from autotune.config.config import config_from
from autotune.errors import ConfigError
from autotune.evaluation import Measurement, Metric, Reference
from autotune.models.runtime.encoder import OpenVINOEncoder
from autotune.models.source import SourceModel
from autotune.models.tasks.registry import find_task, task_named, task_names, task_of_files, task_of_graph
from autotune.models.tasks.task import Loss, Task
from autotune.models.tasks.text_embedding import read_usage, special_tokens
from autotune.study import single
from autotune.testing import FakeTokenizer

FOUND = {
    "text-generation": [
        ({"architectures": ["LlamaForCausalLM"]}, ()),
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, ()),
        ({"architectures": ["BertForSequenceClassification"], "num_labels": 3}, ()),
        ({}, ()),
    ],
    "text-embedding": [
        ({"architectures": ["BertModel"], "model_type": "bert"}, ()),
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, ("modules.json",)),
    ],
    "visual-text": [
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"model_type": "clip"}}, ()),
        ({}, ("openvino_language_model.xml", "openvino_vision_embeddings_model.xml")),
    ],
    "text-reranking": [
        ({"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, ("modules.json",)),
        ({"architectures": ["BertForSequenceClassification"]}, ()),
    ],
}


class Reversing(Task):
    """A toy: a table of vectors, of which a text has the sum; its score is the error of that sum."""

    name = "toy"
    label = "Toy"
    kind = "toy"
    export_class = "OVModelForToys"
    export_task = "toys"
    examples = ("toy",)
    evaluators: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"{__name__}:ToyError": {}}
    loss = Loss(f"{__name__}:ToyError", "toy_error", "toy error", "", short={"samples": 1}, full={"samples": 1})
    pipeline_tag = "other"

    def matches(self, config: Mapping[str, Any], files: Collection[str]) -> bool:
        return config.get("model_type") == "toy"

    def snippets(self, folder: Path | None) -> Sequence[str]:
        return ()

    def why_not_scorable(
        self, inputs: Iterable[Any], outputs: Iterable[Any], *, states: int | None = None, fed: Collection[str] = ()
    ) -> str | None:
        return None if any("sums" in port.get_names() for port in outputs) else "is no toy"

    def compiled(self, model: Any, tokenizer: Any, **options: Any) -> OpenVINOEncoder:
        return OpenVINOEncoder(model, tokenizer, ("sums",), ov_config=options.get("ov_config"))


TASK = Reversing()


class ToyError:
    """Mean distance of the sums of a few texts to the original's."""

    metrics: ClassVar[Mapping[str, Metric]] = {"toy_error": Metric("minimize", "", "distance", perfect=0.0)}
    tasks = ("toy",)
    repeatable = True

    def fingerprint(self) -> str:
        return "toy"

    def reference(self, original: Any) -> Reference:
        return {"sums": np.array([found for _, found in sorted(original.run([[1, 2, 3], [4, 5, 6]]))])}

    def evaluate(self, candidate: Any, reference: Reference) -> Mapping[str, Measurement]:
        distances = np.abs(self.reference(candidate)["sums"] - reference["sums"]).mean(axis=1)
        return {"toy_error": Measurement(float(distances.mean()), 0.0, tuple(distances.tolist()))}

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        return {"toy_error": Measurement(0.0, 0.0)}


def toy() -> ov.Model:
    """Return a model that looks tokens up in a table, sums them, and multiplies by a matrix."""
    random = np.random.default_rng(0)
    tokens = ops.parameter([-1, -1], np.int64, name="input_ids")
    tokens.output(0).set_names({"input_ids"})
    table, matrix = (ops.constant(random.normal(size=(64, 64)).astype(np.float32)) for _ in range(2))
    sums = ops.reduce_sum(ops.gather(table, tokens, np.int64(0)), np.int64(1))
    product = ops.matmul(sums, matrix, False, True)
    product.output(0).set_names({"sums"})
    return ov.Model([ops.result(product)], [tokens], "toy")


def test_the_files_of_a_model_say_its_task(tmp_path: Path) -> None:
    """Modules of sentence-transformers, an encoder or a head of one or two labels; all else is text generation."""
    assert task_names()[0] == "text-generation"
    for name, cases in FOUND.items():
        for config, files in cases:
            assert task_of_files(config, files).name == name, config
    (tmp_path / "config.json").write_text(json.dumps(FOUND["text-embedding"][0][0]))
    assert find_task(tmp_path).name == "text-embedding"
    assert find_task(tmp_path, "text-generation").name == "text-generation"
    assert find_task("owner/model").name == "text-generation"
    causal = task_named("text-reranking").for_model({"architectures": ["Qwen3ForCausalLM"]})
    assert (causal.name, causal.export_class) == ("text-reranking", "OVModelForCausalLM")
    for name, problem in {
        "text-embeding": "did you mean 'text-embedding'",
        "json:TASK": "name an installed module with an instance named TASK",
    }.items():
        with pytest.raises(ConfigError, match=problem):
            task_named(name)


def test_a_task_of_ones_own_is_one_file(tmp_path: Path) -> None:
    """A toy is compressed, scored by its own evaluator, and refused what its task cannot do."""
    assert task_named(f"{__name__}:TASK") is TASK
    source = SourceModel.from_model(toy(), FakeTokenizer(), task=f"{__name__}:TASK")
    assert (source.task.spec, task_of_graph(toy()).name) == (f"{__name__}:TASK", "text-generation")
    options: dict[str, Any] = {"tokenizer": FakeTokenizer(), "cache": tmp_path / "cache", "progress": False}
    small = autotune.compress(toy(), mode="int8_asym", task=f"{__name__}:TASK", **options)
    assert isinstance(small, single.CompressedModel)
    scores = small.evaluate({f"{__name__}:ToyError": {}})
    assert 0 < scores["toy_error"].value < 0.5
    with pytest.raises(ConfigError, match="and this one is for toy; use"):
        small.evaluate({"perplexity": {"synthetic": True}})


def test_evaluators_of_another_task_are_refused_before_any_work(tmp_path: Path) -> None:
    """The message names those that fit, and `task`; both remedies work."""
    (tmp_path / "config.json").write_text(json.dumps(FOUND["text-embedding"][0][0]))
    data: dict[str, Any] = {"model": str(tmp_path), "calibration": {"synthetic": True}}
    texts = {"texts": ["one", "two"]}
    with pytest.raises(ConfigError, match="is for text-embedding; use embedding_similarity, or set `task`"):
        config_from({**data, "evaluators": {"perplexity": {"synthetic": True, "samples": 2}}})
    assert config_from({**data, "evaluators": {"embedding_similarity": texts}}).task is None
    changed = config_from(
        {**data, "task": "text-generation", "evaluators": {"perplexity": {"synthetic": True, "samples": 2}}}
    )
    assert changed.as_dict()["task"] == "text-generation"
    assert list(config_from(data).evaluators) == ["embedding_similarity"]


def test_sentence_transformers_modules_say_how_texts_are_pooled(tmp_path: Path) -> None:
    """The old form of the pooling and the new one, normalization and length; a pooling that GenAI lacks is refused."""
    assert read_usage(tmp_path) == {"pooling": "cls", "normalize": False, "max_length": 200}
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    file = tmp_path / "1_Pooling" / "config.json"
    file.parent.mkdir()
    for config, pooling in (
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last_token"),
    ):
        file.write_text(json.dumps(config))
        assert read_usage(tmp_path) == {"pooling": pooling, "normalize": True, "max_length": 256}
    file.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ConfigError, match="OpenVINO GenAI has only cls, mean, last_token"):
        read_usage(tmp_path)


def test_special_tokens_are_those_around_a_text() -> None:
    """As the tokenizer adds them, before and after."""

    def tokenizer(text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        inner = [ord(character) for character in text]
        return {"input_ids": [1, 2, *inner, 3] if add_special_tokens else inner}

    assert special_tokens(tokenizer) == ([1, 2], [3])
