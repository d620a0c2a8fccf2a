"""Original models: found in a folder or on the hub, exported by optimum-intel, or given in memory."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint, fingerprint_file, get_or_create_directory
from autotune.errors import AutotuneError, ConfigError, PrerequisiteError, UsageError, reason
from autotune.models.gptq_checkpoint import Checkpoint, find_checkpoint, keep_integers, write_float_copy
from autotune.models.hub import hub_advice, is_hub_problem

if TYPE_CHECKING:
    import openvino as ov

    from autotune.common.cache import Cache

_log = logging.getLogger(__name__)

MODEL_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"
COPIED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files of a Hugging Face folder that a compressed model's folder has as well."""

_EXPORT_VERSION = 2
_EXPORT_RECORD = "autotune_export.txt"
_HF_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class SourceModel:
    """An original model in OpenVINO's form, in a folder or (see `from_model`) in memory.

    Attributes:
        name: what the user wrote: a hub id or a path.
        path: folder with ``openvino_model.xml``, its weights, ``config.json`` and the tokenizer; None for a model in
            memory.
        trust_remote_code: passed on to transformers when the tokenizer is loaded.
    """

    name: str
    path: Path | None
    trust_remote_code: bool = False
    _model: ov.Model | None = field(default=None, repr=False)
    _tokenizer: Any = field(default=None, repr=False)

    @classmethod
    def from_model(cls, model: ov.Model, tokenizer: Any = None, *, name: str = "the model in memory") -> SourceModel:
        """Make a source of a model that is not in a folder.

        Args:
            model: any model; must not be changed afterwards. Scoring it needs a stateful causal language model, as
                `OpenVINOLanguageModel` describes it.
            tokenizer: its `transformers` tokenizer. None is enough for settings and a size that need no texts.
            name: for messages and records.
        """
        return cls(name, None, _model=model, _tokenizer=tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with the model's graph or weights."""
        if self.path is None:
            from autotune.compression.ir.constants import model_digest

            return model_digest(self.read())
        return fingerprint(fingerprint_file(self.path / MODEL_FILE), fingerprint_file(self.path / WEIGHTS_FILE))

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """32 hex digits that change with the tokenizer's files, and with the configurations, which name end tokens."""
        if self.path is not None:
            return _fingerprint_files(self.path / name for name in COPIED_FILES)
        with TemporaryDirectory() as folder:
            if self.write_tokenizer(Path(folder)):
                return _fingerprint_files(sorted(Path(folder).iterdir()))
        return fingerprint("tokenizer", pickle.dumps(self._tokenizer))

    def read(self) -> ov.Model:
        """Return the model; if it is in a folder, its weights are memory-mapped."""
        if self._model is not None:
            return self._model
        import openvino as ov

        assert self.path is not None
        return ov.Core().read_model(self.path / MODEL_FILE)

    def tokenizer(self) -> Any:
        """Return the `transformers` tokenizer.

        Raises:
            PrerequisiteError: the folder has none that transformers can load, or none came with a model in memory.
        """
        if self._tokenizer is not None:
            return self._tokenizer
        if self.path is None:
            raise PrerequisiteError(
                f"{self.name} was given without a tokenizer, but texts for calibration or evaluation need one. Pass "
                "the tokenizer together with the model, such as transformers' AutoTokenizer.from_pretrained(...), or "
                "use settings that need no calibration."
            )
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=self.trust_remote_code)
        except Exception as error:
            raise PrerequisiteError(
                f"{self.path}: no tokenizer could be loaded from this folder ({reason(error)}); copy tokenizer.json "
                "and tokenizer_config.json of the original model into it"
            ) from error

    def write_tokenizer(self, folder: Path) -> bool:
        """Write the files of a tokenizer in memory; return False if there is none that has `save_pretrained`."""
        if not hasattr(self._tokenizer, "save_pretrained"):
            return False
        self._tokenizer.save_pretrained(folder)
        return True


def source_of(model: Any, tokenizer: Any, parameter: str) -> SourceModel | str:
    """Return a model in memory as a source, and an id or path as it is; `parameter` names the argument.

    Raises:
        UsageError: neither path nor `ov.Model`.
    """
    if isinstance(model, (str, Path)):
        return str(model)
    import openvino as ov

    if not isinstance(model, ov.Model):
        raise UsageError(
            f"`{parameter}` must be a hub id, a folder or an openvino.Model, got {type(model).__name__}. Convert a "
            "PyTorch module by openvino.convert_model(module, example_input=...)"
        )
    return SourceModel.from_model(model, tokenizer)


def _fingerprint_files(files: Iterable[Path]) -> str:
    return fingerprint([(file.name, fingerprint_file(file)) for file in files if file.is_file()])


def resolve_model(model: str, *, cache: Cache, trust_remote_code: bool = False) -> SourceModel:
    """Find a model; export it to OpenVINO if it is not an OpenVINO folder, and keep the export in the cache.

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
            folder = folder.resolve()
            if not (folder / WEIGHTS_FILE).is_file():
                raise ConfigError(
                    f"{folder} holds {MODEL_FILE} but no {WEIGHTS_FILE}; export the model again", key="model"
                )
            return SourceModel(model, folder, trust_remote_code)
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} holds neither {MODEL_FILE} nor config.json; name an OpenVINO folder, a Hugging Face folder "
                "or a hub id",
                key="model",
            )
        files = sorted(file for pattern in _HF_WEIGHTS for file in folder.glob(pattern))
        files += [file for name in COPIED_FILES if (file := folder / name).is_file()]
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


def _content_of(source: SourceModel) -> str:
    """Describe every byte of an exported folder; its fingerprints are needed later anyway."""
    return f"{source.fingerprint} {source.tokenizer_fingerprint}"


def _is_as_exported(source: SourceModel) -> bool:
    """Return True if an exported folder is complete and byte for byte what the export wrote."""
    assert source.path is not None
    try:
        return (source.path / _EXPORT_RECORD).read_text(encoding="utf-8") == _content_of(source)
    except (OSError, UnicodeDecodeError):
        return False


def _hub_revision(model: str) -> str:
    """Return the commit of a hub model, from the hub or, offline, from the local hub cache."""
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
    """Export a Hugging Face model into the folder `out`; the integers of a GPTQ checkpoint are kept."""
    checkpoint = find_checkpoint(model)
    if checkpoint is None:
        _export_float(model, model, out, trust_remote_code)
    else:
        with TemporaryDirectory(dir=out.parent, prefix="float-") as folder:
            write_float_copy(checkpoint, Path(folder))
            _export_float(model, folder, out, trust_remote_code)
        _keep_integers(checkpoint, out)
    (out / _EXPORT_RECORD).write_text(_content_of(SourceModel(model, out)), encoding="utf-8")


def _keep_integers(checkpoint: Checkpoint, out: Path) -> None:
    import openvino as ov

    whole = out / "kept"
    kept = keep_integers(ov.Core().read_model(out / MODEL_FILE), checkpoint)
    ov.save_model(kept, whole / MODEL_FILE, compress_to_fp16=False)
    # The float export is still memory-mapped; replacing its files keeps the mapping valid until it is released.
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
    from transformers import AutoTokenizer

    try:
        with _quiet_export():
            exported = OVModelForCausalLM.from_pretrained(
                files, export=True, load_in_8bit=False, compile=False, trust_remote_code=trust_remote_code
            )
            exported.save_pretrained(out)
            tokenizer = AutoTokenizer.from_pretrained(files, trust_remote_code=trust_remote_code)
            tokenizer.save_pretrained(out)
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
    """Suppress the warnings and progress bars of tracing, which do not concern a user of autotune."""
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
