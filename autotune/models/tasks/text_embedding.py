"""Text embedding: encoders, and decoders used as such, whose vectors of tokens are pooled to one of the text."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autotune.errors import ConfigError
from autotune.models.tasks.task import Loss, Task

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import IntArray
    from autotune.evaluation.texts.sources import TextSource
    from autotune.models.runtime.encoder import OpenVINOEncoder

INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
OUTPUTS = ("last_hidden_state", "token_embeddings")
ENCODERS = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "gte", "modernbert"),
    *("mpnet", "new", "nomic_bert", "roberta", "xlm", "xlm-roberta", "xlm-roberta-xl"),
)
"""Architectures that are encoders; of others, the files of sentence-transformers say that they embed texts."""

POOLING = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}
"""Poolings of sentence-transformers -> names in WhoWhatBench and OpenVINO GenAI."""

MAX_LENGTH = 200
"""Tokens of a text without a limit of its own, as in WhoWhatBench."""

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


class TextEmbedding(Task):
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
        return why_no_encoder(inputs, results, OUTPUTS, self, fed)

    def compiled(
        self,
        model: ov.Model | Path,
        tokenizer: Any,
        *,
        folder: Path | None = None,
        device: str = "CPU",
        ov_config: Mapping[str, Any] | None = None,
        constants: Mapping[str, ov.Tensor] | None = None,
        columns: int = 0,
    ) -> OpenVINOEncoder:
        """See `Task`."""
        from autotune.models.runtime.encoder import OpenVINOEncoder

        return OpenVINOEncoder(
            model,
            tokenizer,
            OUTPUTS,
            usage=read_usage(folder),
            device=device,
            ov_config=ov_config,
            constants=constants,
        )

    def windows(
        self,
        source: TextSource,
        tokenizer: Any,
        texts: Sequence[str],
        *,
        length: int,
        samples: int,
        name: str,
        embeddings: Any = None,
    ) -> IntArray:
        """See `Task`; each window begins and ends with the special tokens of a text of its own."""
        if source.tokens is not None:
            return super().windows(source, tokenizer, texts, length=length, samples=samples, name=name)
        before, after = special_tokens(tokenizer)
        inner = length - len(before) - len(after)
        if inner < 1:
            raise ConfigError(
                f"is {length}, and the model puts {length - inner} special tokens into each text; set it to 16 or more",
                key="calibration.sequence_length",
            )

        def plain(text: str, **options: Any) -> Any:
            return tokenizer(text, add_special_tokens=False, **options)

        found = super().windows(source, plain, texts, length=inner, samples=samples, name=name)
        edges = [np.tile(np.array(part, np.int64), (len(found), 1)) for part in (before, after)]
        return np.concatenate([edges[0], found, edges[1]], axis=1)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after a text."""
    whole, inner = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (True, False))
    start = next(at for at in range(len(whole)) if whole[at : at + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]


def why_no_encoder(
    inputs: Iterable[Any], results: Collection[str], expected: Sequence[str], task: Task, fed: Collection[str]
) -> str | None:
    """Return why a graph cannot be run in one pass over whole texts, and what to do; None if it can.

    Args:
        inputs: its ports.
        results: names of its outputs.
        expected: outputs of which it needs one.
        task: whose class exports such graphs.
        fed: further inputs that the caller feeds.
    """
    ports = {port.get_any_name(): port for port in inputs}
    export = f"optimum-cli export openvino --task {task.export_task}"
    unknown = [name for name, port in ports.items() if not port.get_names() & (INPUTS | {"beam_idx"} | set(fed))]
    named = {name for port in ports.values() for name in port.get_names()}
    if unknown or "input_ids" not in named or not set(expected) & set(results):
        return (
            f"is not a {task.kind}: its inputs are {', '.join(sorted(ports))} and its outputs "
            f"{', '.join(sorted(results))}, but only {', '.join(sorted(INPUTS))} and {expected[0]} are known. Export "
            f"it again with optimum-intel's {task.export_class}: {export}"
        )
    shape = next(port.get_partial_shape() for port in ports.values() if "input_ids" in port.get_names())
    if shape.rank.is_static and any(size.is_static for size in shape):
        return (
            f"has an input_ids of the fixed shape {shape}. Search, evaluation and calibration need a dynamic batch and "
            f"length ([?,?]); compression without texts works. Export it again without a call of `reshape`: {export}"
        )
    return None


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
