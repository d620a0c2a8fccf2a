"""An encoder, a reranker and a causal reranker from checkpoint to saved folder, against other packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import TEXT, VOCABULARY, write_tokenizer

import autotune
from autotune.errors import ConfigError, PlanError
from evaluators.rerank_similarity import AFTER, BEFORE, INSTRUCTION

QUERIES = [
    ("what do hens eat", ["they eat grain", "the mill stands by the river"]),
    ("who rows across", ["nobody", "her brother does"]),
]
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))


def write_word_pieces(folder: Path) -> int:
    """Write a BERT tokenizer of single letters; return its number of tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return len(words)


def write_bert(folder: Path, labels: int) -> Path:
    """Write a random BERT with a head of so many labels, or for 0 an encoder with sentence-transformers' modules."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=write_word_pieces(folder), max_position_embeddings=128, num_labels=labels, **SIZES)
    config.initializer_range = 0.2
    model = BertForSequenceClassification(config) if labels else BertModel(config)
    model.save_pretrained(folder)
    if not labels:
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    return folder


def write_qwen(folder: Path) -> Path:
    """Write a random Qwen3 whose tokenizer has the tokens yes and no."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save_pretrained(folder)
    heads = {"num_key_value_heads": 2, "head_dim": 16}
    config = Qwen3Config(vocab_size=VOCABULARY + 2, max_position_embeddings=1024, **SIZES, **heads)
    config.initializer_range = 0.2
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def write_texts(folder: Path) -> dict[str, Any]:
    """Write a calibration text and queries; return the options of a calibrated compression."""
    (folder / "calibration.txt").write_text(TEXT * 8)
    rows = [json.dumps({"query": query, "passages": texts}) for query, texts in QUERIES]
    (folder / "queries.jsonl").write_text("\n".join(rows))
    return {
        "mode": "int4_asym",
        "group_size": 32,
        "gptq": True,
        "calibration": str(folder / "calibration.txt"),
        "samples": 4,
        "sequence_length": 48,
        "cache": folder / "cache",
        "progress": False,
    }


def search(folder: Path, model: Path, **changes: Any) -> Any:
    """Search two settings of an encoder; return the study."""
    config = {
        "model": str(model),
        "output": str(folder / "study"),
        "calibration": {"path": str(folder / "calibration.txt"), "samples": 4, "sequence_length": 48},
        "space": {"mode": ["int4_asym"], "group_size": 32, "gptq": [True], "awq": [False, True]},
        "evaluators": {"embedding_similarity": {"path": str(folder / "queries.jsonl")}},
        "study": {"trials": 2, "workers": 0},
        **changes,
    }
    return autotune.search(config, progress=False)


def test_an_encoder_is_searched_and_its_vectors_are_those_of_genai(tmp_path: Path) -> None:
    """Search and export: vectors, score and card agree; what an encoder cannot do is refused by name."""
    import openvino_genai
    from optimum.intel import OVModelForFeatureExtraction
    from transformers import AutoTokenizer

    model, texts = write_bert(tmp_path / "model", 0), [text for _, passages in QUERIES for text in passages]
    options = write_texts(tmp_path)
    study = search(tmp_path, model)
    trial = int(study.front["trial"].iloc[0])
    saved = study.export(tmp_path / "out", trial=trial)
    small = autotune.compress(str(model), **options)

    def vectors(folder: Any) -> Any:
        tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1)
        states = OVModelForFeatureExtraction.from_pretrained(folder, ov_config=EXACT)(**tokens).last_hidden_state
        pooled = ((states * mask).sum(1) / mask.sum(1)).numpy().astype(np.float64)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    own = vectors(saved.folder)
    cosines = (vectors(small.source.path) * own).sum(axis=1)
    measured = study.trials.set_index("trial").loc[trial, "embedding_similarity"]
    assert measured == pytest.approx(cosines.reshape(2, 2).mean(), abs=1e-5)
    pooling = openvino_genai.TextEmbeddingPipeline.PoolingType.MEAN
    config = openvino_genai.TextEmbeddingPipeline.Config(pooling_type=pooling, normalize=True, max_length=64)
    pipeline = openvino_genai.TextEmbeddingPipeline(str(saved.folder), "CPU", config, **EXACT)
    np.testing.assert_allclose(pipeline.embed_documents(texts), own, atol=1e-4)
    card = (saved.folder / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card
    assert "PoolingType.MEAN" in card
    with pytest.raises(ConfigError, match="and this one is for text-embedding; use embedding_similarity"):
        small.evaluate({"perplexity": {"path": str(tmp_path / "calibration.txt")}})
    with pytest.raises(ConfigError, match="a model for text-embedding writes no texts"):
        search(
            tmp_path,
            model,
            calibration={"synthetic": True, "samples": 2, "sequence_length": 48},
            output=str(tmp_path / "other"),
        )
    with pytest.raises(PlanError, match="distillation trains the logits of causal language models"):
        autotune.compress(str(model), distillation=True, **options)


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_of_a_reranker_are_those_of_optimum(tmp_path: Path, labels: int) -> None:
    """The similarity of a compressed reranker, worked by hand on what optimum-intel computes."""
    from optimum.intel import OVModelForSequenceClassification
    from transformers import AutoTokenizer

    small = autotune.compress(str(write_bert(tmp_path / "model", labels)), **write_texts(tmp_path))
    measured = small.evaluate({"rerank_similarity": {"path": str(tmp_path / "queries.jsonl")}})["rerank_similarity"]

    def scores(folder: Any) -> list[Any]:
        loaded = OVModelForSequenceClassification.from_pretrained(folder, ov_config=EXACT)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found = []
        for query, passages in QUERIES:
            pairs = tokenizer([query] * 2, passages, padding=True, return_tensors="pt")
            found.append(loaded(**pairs).logits[:, -1].sigmoid().numpy().astype(np.float64))
        return found

    folders = (small.source.path, small.save(tmp_path / "out").folder)
    distances = [np.linalg.norm(a - b) for a, b in zip(*map(scores, folders), strict=True)]
    expected = np.mean([1 / (1 + distance) for distance in distances])
    assert measured.value == pytest.approx(expected, abs=1e-5)


def test_a_causal_reranker_answers_yes_or_no(tmp_path: Path) -> None:
    """`task` makes a reranker of a causal model; its score is the softmax that torch computes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = write_qwen(tmp_path / "model")
    small = autotune.compress(str(model), task="text-reranking", **write_texts(tmp_path))
    scores = small.evaluate({"rerank_similarity": {"path": str(tmp_path / "queries.jsonl")}})
    assert 0.3 < scores["rerank_similarity"].value < 1
    tokenizer, original = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    ids = tokenizer.convert_tokens_to_ids(["no", "yes"])
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (BEFORE, AFTER))
    expected = []
    for query, passages in QUERIES:
        for text in passages:
            pair = f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {text}"
            inner = tokenizer(pair, add_special_tokens=False)["input_ids"][: max(1, 200 - len(before) - len(after))]
            with torch.no_grad():
                logits = original(torch.tensor([[*before, *inner, *after]])).logits[0, -1, ids].double()
            expected.append(float(logits.softmax(0)[1]))
    (stored,) = [
        found
        for file in (tmp_path / "cache" / "references").glob("*.safetensors")
        if "scores" in (found := _tensors(file))
    ]
    assert stored["scores"] == pytest.approx(expected, abs=1e-4)


def _tensors(file: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(file)
