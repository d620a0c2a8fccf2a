"""Models on disk: load, export, save, tokenise. The only room that knows optimum-intel."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint, fingerprint_file, get_or_create_directory
from autotune.errors import AutotuneError, CompressionError, ConfigError, PrerequisiteError, reason
from autotune.models.gptq_checkpoint import Checkpoint, find_checkpoint, keep_integers, write_float_copy
from autotune.models.hub import hub_advice, is_hub_problem

if TYPE_CHECKING:
    import openvino as ov

    from autotune.common.cache import Cache

__all__ = ["MODEL_FILE", "WEIGHTS_FILE", "SourceModel", "resolve_model", "save_model"]

_log = logging.getLogger(__name__)

MODEL_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"
_EXPORT_VERSION = 2
_EXPORT_RECORD = "autotune_export.txt"
_HF_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_COPIED_FILES = ("config.json", "generation_config.json", *_TOKENIZER_FILES)
_TOKENIZER_IR = "openvino_tokenizer.xml"


@dataclass(frozen=True)
class SourceModel:
    """The original model as an OpenVINO folder.

    Attributes:
        name: what the user wrote: a hub id or a path.
        path: folder with ``openvino_model.xml``, its weights, ``config.json`` and the tokenizer.
        trust_remote_code: passed on to transformers where the tokenizer is loaded.
    """

    name: str
    path: Path
    trust_remote_code: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the model's graph or weights."""
        return fingerprint(fingerprint_file(self.path / MODEL_FILE), fingerprint_file(self.path / WEIGHTS_FILE))

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Changes with the tokenizer's files, and with the configurations, which say what ends a text."""
        files = [self.path / name for name in _COPIED_FILES if (self.path / name).is_file()]
        return fingerprint([(file.name, fingerprint_file(file)) for file in files])

    def read(self) -> ov.Model:
        """Read the model; its weights stay mapped from the file."""
        import openvino as ov

        return ov.Core().read_model(self.path / MODEL_FILE)

    def tokenizer(self) -> Any:
        """The `transformers` tokenizer.

        Raises:
            PrerequisiteError: the folder holds none that transformers can load.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=self.trust_remote_code)
        except Exception as error:
            raise PrerequisiteError(
                f"{self.path}: no tokenizer could be loaded from this folder ({reason(error)}); copy tokenizer.json "
                "and tokenizer_config.json of the original model into it"
            ) from error


def resolve_model(model: str, *, cache: Cache, trust_remote_code: bool = False) -> SourceModel:
    """Find a model and bring it into OpenVINO's form, exported once and kept in the cache.

    Args:
        model: an OpenVINO folder, a Hugging Face folder, or a hub id.
        cache: where exports are kept.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ConfigError: a local path that does not exist or holds no model.
        PrerequisiteError: a hub id that cannot be downloaded, or a model that cannot be exported.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / MODEL_FILE).is_file():
            return _checked(SourceModel(model, folder.resolve(), trust_remote_code))
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} holds neither {MODEL_FILE} nor config.json; name an OpenVINO folder, a Hugging Face folder "
                "or a hub id",
                key="model",
            )
        files = sorted(file for pattern in _HF_WEIGHTS for file in folder.glob(pattern))
        files += [file for name in _COPIED_FILES if (file := folder / name).is_file()]
        key = fingerprint(_EXPORT_VERSION, [(file.name, fingerprint_file(file)) for file in files])
    elif folder.exists() or model.startswith((".", "/", "~")):
        raise ConfigError(f"{model} is not a folder; name an existing folder or a hub id", key="model")
    else:
        key = fingerprint(_EXPORT_VERSION, model, _hub_revision(model))
    target = cache.models / key
    for _ in range(2):
        get_or_create_directory(target, lambda out: _export(model, out, trust_remote_code))
        source = SourceModel(model, target, trust_remote_code)
        if _is_as_exported(source):
            return source
        _log.warning("the exported model in %s is damaged; it is exported again", target)
        shutil.rmtree(target, ignore_errors=True)
    raise PrerequisiteError(f"{target} does not keep what is written into it; check the disk, or name another cache")


def _is_as_exported(source: SourceModel) -> bool:
    """Whether an exported folder holds what was written into it, byte for byte; the fingerprints are needed anyway."""
    try:
        told = (source.path / _EXPORT_RECORD).read_text(encoding="utf-8")
        return told == f"{source.fingerprint} {source.tokenizer_fingerprint}"
    except (OSError, UnicodeDecodeError):
        return False


def _checked(source: SourceModel) -> SourceModel:
    if not (source.path / WEIGHTS_FILE).is_file():
        raise ConfigError(
            f"{source.path} holds {MODEL_FILE} but no {WEIGHTS_FILE}; export the model again", key="model"
        )
    return source


def _hub_revision(model: str) -> str:
    """The commit of a hub model, from the hub or, offline, from the local hub cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    try:
        return str(HfApi().model_info(model, timeout=20).sha)
    except Exception as error:
        main: Path = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "refs" / "main"
        if main.is_file():
            return main.read_text().strip()
        raise PrerequisiteError(f"the model {model} {hub_advice(model, error)}") from error


def _export(model: str, out: Path, trust_remote_code: bool) -> None:
    """Bring a Hugging Face model into OpenVINO's form; the integers of a GPTQ checkpoint stay what they are."""
    checkpoint = find_checkpoint(model)
    if checkpoint is None:
        _export_float(model, model, out, trust_remote_code)
    else:
        with TemporaryDirectory(dir=out.parent, prefix="float-") as folder:
            write_float_copy(checkpoint, Path(folder))
            _export_float(model, folder, out, trust_remote_code)
        _keep_integers(checkpoint, out)
    written = SourceModel(model, out)
    record = f"{written.fingerprint} {written.tokenizer_fingerprint}"
    (out / _EXPORT_RECORD).write_text(record, encoding="utf-8")


def _keep_integers(checkpoint: Checkpoint, out: Path) -> None:
    import openvino as ov

    whole = out / "kept"
    kept = keep_integers(ov.Core().read_model(out / MODEL_FILE), checkpoint)
    ov.save_model(kept, whole / MODEL_FILE, compress_to_fp16=False)
    # What is mapped from the float export stays readable until it is let go.
    for name in (MODEL_FILE, WEIGHTS_FILE):
        (whole / name).replace(out / name)
    whole.rmdir()


def _export_float(model: str, files: str, out: Path, trust_remote_code: bool) -> None:
    """Export with optimum-intel in the precision the weights are stored in, and add the tokenizer's files.

    Args:
        model: what the user calls it.
        files: the folder or hub id that it is read from.
        out: an empty folder.
        trust_remote_code: whether code that comes with the model may run.
    """
    from optimum.intel import OVModelForCausalLM

    try:
        with _quiet_export():
            exported = OVModelForCausalLM.from_pretrained(
                files, export=True, load_in_8bit=False, compile=False, trust_remote_code=trust_remote_code
            )
            exported.save_pretrained(out)
            _add_tokenizer(files, out, trust_remote_code)
    except AutotuneError:
        raise
    except Exception as error:
        if is_hub_problem(error):
            raise PrerequisiteError(f"the model {model} {hub_advice(model, error)}") from error
        raise PrerequisiteError(
            f"optimum-intel could not export {model} to OpenVINO ({reason(error)}); check that it is a causal "
            "language model that `optimum-cli export openvino` supports and that the disk is not full"
        ) from error
    if not (out / MODEL_FILE).is_file():
        raise PrerequisiteError(f"optimum-intel exported {model} without {MODEL_FILE}; only text models can be tuned")


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Keep the tracer's remarks about its own work off the terminal: they are of no use to a user of this tool."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("optimum").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _add_tokenizer(model: str, out: Path, trust_remote_code: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    tokenizer.save_pretrained(out)


def save_model(model: ov.Model, source: SourceModel, out: Path, *, record: Mapping[str, Any]) -> None:
    """Write a complete folder that optimum-intel and OpenVINO GenAI load.

    Args:
        model: the compressed model.
        source: where configuration and tokenizer come from.
        out: a folder that does not exist yet or is empty.
        record: plan, scores and hashes, written as ``autotune.json``.

    Raises:
        CompressionError: `out` holds something already or cannot be written.
    """
    import openvino as ov

    if out.exists() and any(out.iterdir()):
        raise CompressionError(f"{out} is not empty; name a folder that does not exist yet")
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The weights' precision is the plan's business: nothing may be rounded on the way to the disk.
        ov.save_model(model, out / MODEL_FILE, compress_to_fp16=False)
        for name in _COPIED_FILES:
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, out / name)
        (out / "openvino_config.json").write_text(json.dumps(_openvino_config(record), indent=2) + "\n")
        (out / "autotune.json").write_text(json.dumps(record, indent=2) + "\n")
        _save_tokenizer_ir(source, out)
    except OSError as error:
        raise CompressionError(
            f"{out} could not be written ({error}); free some disk space or name another folder"
        ) from error


_OPTIMUM_TYPES = {"int8_asym": "int8", "int8_sym": "int8", "int4_asym": "int4", "int4_sym": "int4"}
_OPTIMUM_TYPES |= {"nf4": "nf4", "mxfp4": "mxfp4", "cb4": "cb4"}


def _openvino_config(record: Mapping[str, Any]) -> dict[str, Any]:
    """What optimum-intel's own exports say about themselves, in the terms of `OVWeightQuantizationConfig`.

    It refuses to read what it could not have made itself; such a folder says its data type only, and
    ``autotune.json`` the rest.
    """
    settings = record.get("settings") or {}
    mode = settings.get("mode")
    dtype = _OPTIMUM_TYPES.get(str(mode))
    asymmetric = str(mode).endswith("_asym")
    if dtype == "int8":
        return {"dtype": dtype, "quantization_config": {"bits": 8, "sym": not asymmetric, "dtype": dtype}}
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
    }
    return {"dtype": dtype, "quantization_config": config}


def _save_tokenizer_ir(source: SourceModel, out: Path) -> None:
    """The tokenizer as OpenVINO models, which GenAI needs; copied where the source has them."""
    existing = sorted(source.path.glob("openvino_*tokenizer.*"))
    if existing:
        for file in existing:
            shutil.copyfile(file, out / file.name)
        return
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer

    tokenizer, detokenizer = convert_tokenizer(source.tokenizer(), with_detokenizer=True)
    ov.save_model(tokenizer, out / _TOKENIZER_IR)
    ov.save_model(detokenizer, out / "openvino_detokenizer.xml")
