"""Intake report: what a model is, read from its configuration and the headers of its files before any work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError
from autotune.models.checkpoint import (
    CONFIG,
    StoredTensor,
    check_json,
    dominant_dtype,
    quantization,
    read_header,
    weight_files,
)
from autotune.models.companions import main_file
from autotune.models.tasks.registry import DEFAULT, find_task, task_of_files

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
_UNLIMITED = {"bloom", "mamba", "mamba2", "falcon_mamba", "xlstm", "rwkv"}
"""Architectures without positions: attention biased by distance (ALiBi), or a recurrent state."""

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Intake:
    """Properties of an original model; None where its files do not say.

    Attributes:
        model: what the user calls it.
        architecture: ``model_type`` of its configuration.
        parameters: number of parameters; of a quantized checkpoint, from its configuration's type and None if unknown.
        stored: bytes of its weights as they are stored.
        dtype: type that most weights are stored in, such as ``bfloat16``.
        quantization: method by which the checkpoint is quantized; None if it is not.
        tied: whether the embedding table is also the head.
        vocabulary: number of tokens.
        positions: longest sequence that the model was made for, in tokens, with its RoPE scaling.
        tokenizer: class that tokenizer_config.json names.
        chat: whether there is a chat template.
        exporter: class of optimum-intel that exports it; None also if it was not looked up.
        transformers: versions of transformers that this exporter works with, e.g. ``>=4.57,<=5.0``.
        task: what it does.
    """

    model: str
    architecture: str | None = None
    parameters: int | None = None
    stored: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    tied: bool | None = None
    vocabulary: int | None = None
    positions: int | None = None
    tokenizer: str | None = None
    chat: bool | None = None
    exporter: str | None = None
    transformers: str | None = None
    task: str = DEFAULT

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data for `--json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Describe the model in a few lines for the terminal."""
        from autotune.common.formatting import printable, size

        def rounded(count: int) -> str:
            return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"

        kind = [self.architecture or "unknown architecture"]
        kind += [f"{rounded(self.parameters)} parameters"] if self.parameters else []
        kind += [f"{size(self.stored)} stored" + (f" as {self.dtype}" if self.dtype else "")] if self.stored else []
        kind += [f"quantized by {self.quantization}"] if self.quantization else []
        kind += ["embedding and head tied"] if self.tied else []
        use = [f"{self.positions:,} positions" if self.positions else "no limit on positions found"]
        use += [f"{self.vocabulary:,} tokens"] if self.vocabulary else []
        use += [f"tokenizer {self.tokenizer}"] if self.tokenizer else []
        use += ["chat template" if self.chat else "no chat template"] if self.chat is not None else []
        lines = [f"{self.model}: {', '.join(kind)}", f"  {', '.join(use)}"]
        if self.exporter:
            versions = f", which works with transformers {self.transformers}" if self.transformers else ""
            lines.append(f"  exported by {self.exporter}{versions}")
        return [printable(line) for line in lines]


def read_intake(model: str, *, exporter: bool = False) -> Intake | None:
    """Read the intake report of a local folder, or of a hub model (a few kB); None if neither can be read.

    A failure is not reported here: the checks of `resolve_model` report it, with advice.

    Args:
        model: a folder or a hub id.
        exporter: also look up the exporter of a local Hugging Face folder, which imports optimum-intel.
    """
    folder = Path(model).expanduser()
    try:
        intake = _local(model, folder) if folder.is_dir() else _on_hub(model)
        if exporter and folder.is_dir() and not main_file(folder).is_file():
            from autotune.models.exporters import find_exporter, load_config

            found = find_exporter(load_config(folder, trust_remote_code=False), folder / CONFIG, find_task(folder))
            limits = [(">=", found.minimum), ("<=", found.maximum)]
            versions = ",".join(f"{sign}{version}" for sign, version in limits if version is not None)
            intake = replace(intake, exporter=found.name, transformers=versions or None)
    except Exception:
        return None
    return intake


def intake_of(model: str, config: Mapping[str, Any], **facts: Any) -> Intake:
    """Make an intake report from a configuration and what is known of the files."""
    text = config.get("text_config") or config
    declared = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    dtype = facts.pop("dtype", None) or (str(declared).removeprefix("torch.") if declared else None)
    parameters, stored, method = facts.pop("parameters", None), facts.get("stored"), quantization(config)
    if parameters is None and stored and dtype in _BYTES and method is None:
        parameters = stored // _BYTES[dtype]
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return Intake(
        model,
        architecture=config.get("model_type"),
        parameters=parameters,
        dtype=dtype,
        quantization=method,
        tied=tied,
        vocabulary=text.get("vocab_size"),
        positions=positions_of(config),
        **facts,
    )


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Return the longest sequence that a model was made for, in tokens; None if its configuration sets no limit.

    A sliding window is not a limit: later layers see further back.
    """
    text = config.get("text_config") or config
    attention = text.get("attn_config") or {}
    alibi = text.get("alibi") or attention.get("alibi") or text.get("position_embedding_type") == "alibi"
    if alibi or text.get("model_type") in _UNLIMITED:
        return None
    trained = next((text[name] for name in _POSITIONS if isinstance(text.get(name), int) and text[name] > 0), None)
    if trained is None:
        return None
    longest = trained
    for scaling in _scalings(text.get("rope_parameters") or text.get("rope_scaling") or {}):
        factor = scaling.get("factor")
        if isinstance(factor, (int, float)):
            # Of YaRN and Llama 3, the factor is on the length before scaling, and max_position_embeddings on either.
            before = scaling.get("original_max_position_embeddings") or trained
            longest = max(longest, int(before * factor))
    return int(longest)


def _scalings(section: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the RoPE parameters: one set, or one for each type of layer."""
    yield section
    yield from (part for part in section.values() if isinstance(part, dict))


def _local(model: str, folder: Path) -> Intake:
    config = check_json(folder / CONFIG)
    file = folder / "tokenizer_config.json"
    tokenizer = check_json(file) if file.is_file() else {}
    chat = bool(tokenizer.get("chat_template")) or (folder / "chat_template.jinja").is_file()
    facts: dict[str, Any] = {"tokenizer": tokenizer.get("tokenizer_class"), "chat": chat if tokenizer else None}
    facts["task"] = find_task(folder).name
    openvino = main_file(folder).with_suffix(".bin")
    if openvino.is_file():
        return intake_of(model, config, stored=openvino.stat().st_size, **facts)
    files = weight_files(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors |= read_header(file) if file.suffix == ".safetensors" else {}
    stored = sum(file.stat().st_size for file in files)
    if tensors:
        kind = dominant_dtype(tensors)
        facts["dtype"] = _DTYPES.get(str(kind), str(kind).lower())
        if quantization(config) is None:
            facts["parameters"] = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return intake_of(model, config, stored=stored or None, **facts)


def _on_hub(model: str) -> Intake:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(model, files_metadata=True, timeout=10)
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    stored = sum(size for name, size in files.items() if name.endswith(".safetensors"))
    stored = stored or sum(size for name, size in files.items() if name.endswith(".bin"))
    config = check_json(Path(hf_hub_download(model, CONFIG)))
    tokenizer: Mapping[str, Any] = {}
    if "tokenizer_config.json" in files:
        tokenizer = check_json(Path(hf_hub_download(model, "tokenizer_config.json")))
    chat = bool(tokenizer.get("chat_template")) or "chat_template.jinja" in files
    facts = {"tokenizer": tokenizer.get("tokenizer_class"), "chat": chat if tokenizer else None}
    facts["task"] = task_of_files(config, files).name
    return intake_of(model, config, stored=stored or None, **facts)


def check_window(key: str, length: int, positions: int | None, model: str) -> None:
    """Refuse sequences that are longer than those that a model was made for.

    Args:
        key: the key in model.yaml that sets their length.
        length: their tokens.
        positions: tokens of the model's longest sequence; None is no limit.
        model: its name.

    Raises:
        ConfigError: they are longer. Scores on them would show the missing positions, not the compression.
    """
    if positions is not None and length > positions:
        raise ConfigError(
            f"sequences of {length} tokens are longer than the {positions} positions of {model} (in its config.json), "
            f"and predictions beyond them are meaningless. Set it to {positions} or less.",
            key=key,
        )


LENGTHS = ("sequence_length", "max_length", "max_new_tokens")
"""Options of texts and evaluators that set how long a sequence is, in tokens."""


def window_length(section: str, options: Any) -> dict[str, int]:
    """Return the key in model.yaml that sets the length of a text's sequences, and their tokens; empty if none does."""
    windows = getattr(options, "tokens", None)
    if isinstance(windows, list) and windows:  # they have their own length
        return {f"{section}.tokens": max(map(len, windows))}
    found = {f"{section}.{name}": getattr(options, name, None) for name in LENGTHS}
    return {key: length for key, length in found.items() if isinstance(length, int)}


def fit_window(options: Mapping[str, Any], positions: int | None) -> dict[str, Any]:
    """Shorten the windows of a text's options to a model's positions; the number of tokens stays about equal."""
    length = options.get("sequence_length")
    if length is None or positions is None or length <= positions:
        return dict(options)
    return {**options, "sequence_length": positions, "samples": options["samples"] * length // positions}
