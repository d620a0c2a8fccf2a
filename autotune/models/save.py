"""Saving of a compressed model as a complete folder that optimum-intel and OpenVINO GenAI load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint, get_or_create_directory, temporary_folder
from autotune.errors import CompressionError
from autotune.models.companions import LANGUAGE_MODEL_FILE, MODEL_FILE, companions, part_files
from autotune.models.source import SourceModel

if TYPE_CHECKING:
    import openvino as ov

    from autotune.common.cache import Cache


IR_PROPERTIES = ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "KV_CACHE_PRECISION")
"""Properties that OpenVINO reads from an IR, as defaults of this model."""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it takes the place of `out`, on failure it is deleted.

    Args:
        out: a folder that does not exist yet or is empty.

    Raises:
        CompressionError: `out` is not empty or cannot be written.
    """
    if out.exists() and any(out.iterdir()):
        raise CompressionError(f"{out} is not empty; name a folder that does not exist yet")
    place = out.absolute()
    try:
        with temporary_folder(place) as temporary:
            yield temporary
            if place.exists():  # it may be the current folder, which must stay
                for file in temporary.iterdir():
                    file.replace(place / file.name)
            else:
                temporary.replace(place)
    except OSError as error:
        raise CompressionError(
            f"{out} could not be written ({error}); free some disk space or name another folder"
        ) from error


def save_model(model: ov.Model, source: SourceModel, out: Path, *, record: Mapping[str, Any]) -> None:
    """Write a complete model folder.

    Configuration and tokenizer files are copied from the folder of `source`. If `source` was made from a model in
    memory, its tokenizer writes its own files, and there is no ``config.json``.

    Args:
        model: the compressed model.
        source: where configuration and tokenizer come from.
        out: a folder that does not exist yet or is empty.
        record: plan, scores and hashes, written as ``autotune.json``; its ``runtime`` has properties, of which the
            IR gets `IR_PROPERTIES`.

    Raises:
        CompressionError: `out` is not empty or cannot be written.
    """
    import openvino as ov

    with new_folder(out) as folder:
        for name, value in (record.get("runtime") or {}).items():
            if name in IR_PROPERTIES:
                model.set_rt_info(str(value), ["runtime_options", name])
        # The plan decides the precision of every weight: float weights must not be rounded to f16 on saving.
        name = MODEL_FILE if source.parts is None else LANGUAGE_MODEL_FILE
        ov.save_model(model, folder / name, compress_to_fp16=False)
        _save_companions(source, folder)
        (folder / "openvino_config.json").write_text(json.dumps(openvino_config(record), indent=2) + "\n")
        (folder / "autotune.json").write_text(json.dumps(record, indent=2) + "\n")


def compressed_parts(source: SourceModel, cache: Cache, targets: Sequence[str]) -> SourceModel:
    """Return a model in parts with the folder of those that are stored beside its compressed language model.

    Their weights are rounded to 8 bits, once for each model: symmetric for the NPU, else asymmetric. What is compressed
    already is copied. Any other model is returned unchanged.
    """
    if source.path is None or not part_files(source.path):
        return source
    import openvino as ov

    from autotune.compression.engine import ENGINE_VERSION, Engine
    from autotune.compression.ir.sizes import Beside, Sizes
    from autotune.compression.settings import Settings

    folder, mode = source.path, "int8_sym" if "NPU" in targets else "int8_asym"

    def write(out: Path) -> None:
        for file in part_files(folder):
            part = ov.Core().read_model(file)
            engine = Engine(part)
            compressed = engine.apply(engine.plan(Settings(mode=mode))) if engine.weights else part
            ov.save_model(compressed, out / file.name, compress_to_fp16=False)
        for file in companions(folder):
            (out / file.relative_to(folder)).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, out / file.relative_to(folder))

    target = cache.models / fingerprint("parts", source.fingerprint, source.tokenizer_fingerprint, ENGINE_VERSION, mode)
    get_or_create_directory(target, write)
    originals = [Sizes(ov.Core().read_model(file)) for file in part_files(folder)]
    stored = sum(file.stat().st_size for file in target.glob("openvino_*_model.bin"))
    sizes = Beside(sum(each.original for each in originals), sum(each.fp32 for each in originals), stored)
    return replace(source, parts=target, beside=sizes)


def _save_companions(source: SourceModel, out: Path) -> None:
    """Write configuration, tokenizer, and the tokenizer as OpenVINO models, which GenAI needs."""
    existing: list[Path] = []
    for file in source.parts.glob("openvino_*_model.*") if source.parts is not None else ():
        shutil.copyfile(file, out / file.name)
    if source.path is not None:
        for file in companions(source.path):
            target = out / file.relative_to(source.path)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        existing = sorted(source.path.glob("openvino_*tokenizer.*"))
        if source.parts is not None:
            _write_image_processor(out)
    elif not source.write_tokenizer(out):
        return
    if existing:
        for file in existing:
            shutil.copyfile(file, out / file.name)
        return
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer

    tokenizer, detokenizer = convert_tokenizer(source.tokenizer(), with_detokenizer=True)
    ov.save_model(tokenizer, out / "openvino_tokenizer.xml")
    ov.save_model(detokenizer, out / "openvino_detokenizer.xml")


def _write_image_processor(out: Path) -> None:
    """Write ``preprocessor_config.json``, which GenAI reads; transformers 5 has its content in another file."""
    file, processor = out / "preprocessor_config.json", out / "processor_config.json"
    images = json.loads(processor.read_text(encoding="utf-8")).get("image_processor") if processor.is_file() else None
    if isinstance(images, dict) and not file.exists():
        file.write_text(json.dumps(images, indent=2) + "\n", encoding="utf-8")


_OPTIMUM_TYPES = {"int8_asym": "int8", "int8_sym": "int8", "int4_asym": "int4", "int4_sym": "int4"}
_OPTIMUM_TYPES |= {"nf4": "nf4", "mxfp4": "mxfp4", "cb4": "cb4"}


def openvino_config(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of optimum-intel's ``openvino_config.json``, in the terms of `OVWeightQuantizationConfig`.

    optimum-intel refuses settings that it does not support. A folder with such settings gives its data type only;
    ``autotune.json`` has all of them.
    """
    settings = record.get("settings") or {}
    group_size = (record.get("runtime") or {}).get("DYNAMIC_QUANTIZATION_GROUP_SIZE")
    dynamic = {} if group_size is None else {"dq_group_size": int(group_size)}
    mode = settings.get("mode")
    dtype = _OPTIMUM_TYPES.get(str(mode))
    asymmetric = str(mode).endswith("_asym")
    if dtype == "int8":
        return {"dtype": dtype, "quantization_config": {"bits": 8, "sym": not asymmetric, "dtype": dtype, **dynamic}}
    changed = [name for name in ("awq", "scale_estimation", "gptq", "lora_correction") if settings.get(name)]
    backup = settings.get("backup_mode")
    if dtype is None or backup not in (None, "none", "int8_asym", "int8_sym") or (dtype == "mxfp4" and changed):
        return {"dtype": dtype or mode}
    config = {
        "bits": 4,
        "sym": not asymmetric,
        "group_size": settings.get("group_size"),
        "ratio": settings.get("ratio", 1.0),
        "all_layers": settings.get("all_layers", False),
        "backup_precision": backup,
        "scale_estimation": settings.get("scale_estimation", False),
        "gptq": settings.get("gptq", False),
        "lora_correction": settings.get("lora_correction", False),
        "quant_method": "awq" if settings.get("awq") else "default",
        "dtype": dtype,
        **dynamic,
    }
    return {"dtype": dtype, "quantization_config": config}
