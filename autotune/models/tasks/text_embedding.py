"""Text embedding: encoders, and decoders used as such, whose vectors of tokens are pooled to one of the text."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autotune.errors import ConfigError
from autotune.models.tasks.encoder import MAX_LENGTH, EncoderTask, why_no_encoder
from autotune.models.tasks.task import Loss

if TYPE_CHECKING:
    pass

ENCODERS = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "gte", "modernbert"),
    *("mpnet", "new", "nomic_bert", "roberta", "xlm", "xlm-roberta", "xlm-roberta-xl"),
)
"""Architectures that are encoders; of others, the files of sentence-transformers say that they embed texts."""

POOLING = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}
"""Poolings of sentence-transformers -> names in WhoWhatBench and OpenVINO GenAI."""


OPTIMUM = """\
import torch
from optimum.intel import OVModelForFeatureExtraction
from transformers import AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = OVModelForFeatureExtraction.from_pretrained(folder)
texts = ["a mill by the river", "bread from the oven"]
inputs = tokenizer(texts, padding=True, truncation=True, max_length={max_length}, return_tensors="pt")
tokens, mask = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
vectors = {pooled}
vectors = torch.nn.functional.normalize(vectors)
"""
POOLED = {
    "cls": "tokens[:, 0]",
    "mean": "(tokens * mask).sum(1) / mask.sum(1)",
    "last_token": "tokens[torch.arange(len(texts)), mask.squeeze(-1).sum(1) - 1]",
}
GENAI = """\
import openvino_genai

config = openvino_genai.TextEmbeddingPipeline.Config()
config.pooling_type = openvino_genai.TextEmbeddingPipeline.PoolingType.{pooling}
config.max_length, config.normalize = {max_length}, True
pipeline = openvino_genai.TextEmbeddingPipeline(".", "CPU", config)  # this folder; download it first
vectors = pipeline.embed_documents(["a mill by the river", "bread from the oven"])
"""


class TextEmbedding(EncoderTask):
    """See `Task`."""

    name = "text-embedding"
    label = "Text embedding"
    kind = "text encoder"
    export_class = "OVModelForFeatureExtraction"
    export_task = "feature-extraction"
    unused = ("pooler.", "cls.", "lm_head.", "vocab_")
    examples = ("bert", "xlm-roberta", "qwen3")
    evaluators: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "embedding_similarity": {"dataset": "microsoft/ms_marco", "name": "v2.1", "split": "test", "samples": 24}
    }
    loss = Loss(
        "embedding_similarity",
        "embedding_similarity",
        label="1 - embedding similarity",
        unit="",
        short={"samples": 16},
        full={"samples": 64},
        similarity=True,
    )
    pipeline_tag = "feature-extraction"
    outputs = ("last_hidden_state", "token_embeddings")
    window = "text"

    def matches(self, config: Mapping[str, Any], files: Collection[str]) -> bool:
        """See `Task`: sentence-transformers' modules, or an encoder without a head."""
        names = [str(name) for name in config.get("architectures") or ()]
        if any(name.endswith("ForSequenceClassification") for name in names):
            return False
        return "modules.json" in files or (
            config.get("model_type") in ENCODERS and any(name.endswith("Model") for name in names)
        )

    def snippets(self, folder: Path | None) -> Sequence[str]:
        """See `Task`; pooling and length are the model's."""
        usage = read_usage(folder)
        pooling, length = usage["pooling"], usage["max_length"]
        return (
            OPTIMUM.format(max_length=length, pooled=POOLED[pooling]),
            GENAI.format(max_length=length, pooling=pooling.upper()),
        )

    def why_not_scorable(
        self, inputs: Iterable[Any], outputs: Iterable[Any], *, states: int | None = None, fed: Collection[str] = ()
    ) -> str | None:
        """See `Task`."""
        results = {name for port in outputs for name in port.get_names()}
        return why_no_encoder(inputs, results, self.outputs, self, fed)

    def usage_of(self, folder: Path | None) -> Mapping[str, Any]:
        """See `EncoderTask`."""
        return read_usage(folder)

    def special(self, tokenizer: Any) -> Sequence[Sequence[int]]:
        """See `EncoderTask`."""
        return special_tokens(tokenizer)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after a text."""
    whole, inner = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (True, False))
    start = next(at for at in range(len(whole)) if whole[at : at + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]


def read_usage(folder: Path | None) -> dict[str, Any]:
    """Read from sentence-transformers' modules how a model is used; else WhoWhatBench's defaults.

    Returns:
        ``pooling`` (cls, mean or last_token), ``normalize``, and ``max_length`` in tokens.

    Raises:
        ConfigError: a pooling that OpenVINO GenAI does not have, or a file that is not JSON.
    """
    usage: dict[str, Any] = {"pooling": "cls", "normalize": False, "max_length": MAX_LENGTH}
    modules = _json(folder, "modules.json") or []
    for module in modules:
        kind, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Pooling":
            usage["pooling"] = _pooling(_json(folder, f"{path}/config.json") or {}, f"{folder}/{path}/config.json")
        usage["normalize"] |= kind == "Normalize"
    length = (_json(folder, "sentence_bert_config.json") or {}).get("max_seq_length")
    return usage | ({"max_length": int(length)} if isinstance(length, int) and length > 0 else {})


def _pooling(config: Mapping[str, Any], file: str) -> str:
    legacy = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken", "max_tokens": "max"}
    modes = [name for key, name in legacy.items() if config.get(f"pooling_mode_{key}")]
    modes += [key for key, on in config.items() if on is True and key.startswith("pooling_mode_mean_sqrt")]
    modes += [key for key, on in config.items() if on is True and key.startswith("pooling_mode_weighted")]
    given = config.get("pooling_mode", modes or "mean")
    mode = given[0] if isinstance(given, list) and len(given) == 1 else given
    if not isinstance(mode, str) or mode not in POOLING:
        raise ConfigError(
            f"pools by {mode}, and OpenVINO GenAI has only {', '.join(POOLING.values())}. For scores by one of these, "
            "change pooling_mode in a copy of the folder.",
            file=file,
        )
    return POOLING[mode]


def _json(folder: Path | None, name: str) -> Any:
    if folder is None or not (folder / name).is_file():
        return None
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"is not JSON ({error}); download it again.", file=folder / name) from error


TASK = TextEmbedding()
