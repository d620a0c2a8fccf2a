"""Original models: found in a folder or on the hub, exported by optimum-intel, or given in memory."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from autotune.common.files import atomic_write, fingerprint, fingerprint_file, get_or_create_directory, temporary_folder
from autotune.errors import AutotuneError, ConfigError, PrerequisiteError, UsageError, reason
from autotune.models.architecture import check_tensors, quiet
from autotune.models.checkpoint import CONFIG, check_folder, check_json, check_openvino, some
from autotune.models.companions import MODEL_FILE, companions, ir_files, main_file, part_files
from autotune.models.exporters import find_exporter, load_config
from autotune.models.finite import check_irs, check_model, check_stored
from autotune.models.hub import download, hub_advice, is_hub_problem
from autotune.models.intake import positions_of
from autotune.models.quantized.checkpoint import Checkpoint, write_float_copy
from autotune.models.quantized.keep import keep_codes
from autotune.models.quantized.methods import packing_of
from autotune.models.runtime.exported import check_logits
from autotune.models.tasks.registry import DEFAULT, check_served, find_task, task_named, task_of_graph
from autotune.models.tasks.task import Task
from autotune.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import openvino as ov

    from autotune.common.cache import Cache
    from autotune.compression.ir.sizes import Beside

_log = logging.getLogger(__name__)

_EXPORT_VERSION = 5
_EXPORT_RECORD = "autotune_export.txt"
_HF_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


@dataclass(frozen=True)
class SourceModel:
    """An original model in OpenVINO's form, in a folder or (see `from_model`) in memory.

    Attributes:
        name: what the user wrote: a hub id or a path.
        path: folder with the IR, or the IRs, ``config.json`` and the tokenizer; None for a model in memory.
        trust_remote_code: passed on to transformers when the tokenizer is loaded.
        task: what it does.
        parts, beside: folder with the compressed IRs beside a language model, and their sizes.
    """

    name: str
    path: Path | None
    trust_remote_code: bool = False
    task: Task = field(default_factory=lambda: task_named(DEFAULT))
    parts: Path | None = None
    beside: Beside | None = None
    _model: ov.Model | None = field(default=None, repr=False)
    _tokenizer: Any = field(default=None, repr=False)

    @classmethod
    def from_model(
        cls, model: ov.Model, tokenizer: Any = None, *, name: str = "the model in memory", task: str | None = None
    ) -> SourceModel:
        """Make a source of a model that is not in a folder.

        Args:
            model: any model; must not be changed afterwards. Scoring it needs a model as its task exports it, such
                as a stateful causal language model.
            tokenizer: its `transformers` tokenizer. None is enough for settings and a size that need no texts.
            name: for messages and records.
            task: its name; None finds it from the graph.

        Raises:
            ConfigError: the model has NaN or infinite weights.
        """
        check_model(model, name)
        found = task_of_graph(model) if task is None else task_named(task)
        return cls(name, None, task=found, _model=model, _tokenizer=tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with the model's graph or weights, those of all parts."""
        if self.path is None:
            from autotune.compression.ir.constants import model_digest

            return model_digest(self.read())
        return fingerprint(*map(fingerprint_file, ir_files(self.path)))

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """32 hex digits that change with the tokenizer's files, and with the configurations, which name end tokens."""
        if self.path is not None:
            return _fingerprint_files(companions(self.path))
        with TemporaryDirectory() as folder:
            if self.write_tokenizer(Path(folder)):
                return _fingerprint_files(sorted(Path(folder).iterdir()))
        return fingerprint("tokenizer", pickle.dumps(self._tokenizer))

    @cached_property
    def positions(self) -> int | None:
        """Longest sequence that the model was made for, in tokens; None if it has no limit or no config.json."""
        return positions_of(self._config)

    def read(self) -> ov.Model:
        """Return the model; if it is in a folder, its weights are memory-mapped."""
        if self._model is not None:
            return self._model
        import openvino as ov

        assert self.path is not None
        return ov.Core().read_model(main_file(self.path))

    def check_scorable(self, *, cache: bool = True) -> None:
        """Refuse a model that cannot be run for its task, such as a stateless decoder or one of a fixed shape.

        Args:
            cache: whether a KV cache is needed; calibration needs none.

        Raises:
            ConfigError: it is one of them; the message says what works with it, and what to do.
        """
        model = self.read()
        states = len(model.get_variables())
        problem = self.task.why_not_scorable(model.inputs, model.outputs, states=states if cache else None)
        if problem is None:
            return
        other = task_of_graph(model)
        fits = other.why_not_scorable(model.inputs, model.outputs, states=states) is None
        raise ConfigError(f"{self.name} {problem}{f' Or set `task: {other.name}`.' if fits else ''}", key="model")

    @property
    def has_tokenizer(self) -> bool:
        """Return False for a model in memory that was given without one."""
        return self.path is not None or self._tokenizer is not None

    def tokenizer(self) -> Any:
        """Return the `transformers` tokenizer.

        Raises:
            PrerequisiteError: the folder has none that works, or none came with a model in memory.
        """
        if self._tokenizer is not None:
            return self._tokenizer
        if self.path is None:
            raise PrerequisiteError(
                f"{self.name} was given without a tokenizer, but texts for calibration or evaluation need one. Pass "
                "the tokenizer together with the model, such as transformers' AutoTokenizer.from_pretrained(...), or "
                "use settings that need no calibration."
            )
        vocabulary = (self._config.get("text_config") or self._config).get("vocab_size")
        return load_tokenizer(self.path, trust_remote_code=self.trust_remote_code, vocabulary=vocabulary)

    @property
    def _config(self) -> dict[str, Any]:
        """The configuration with the defaults of its class, which config.json leaves out; empty if there is none."""
        if self.path is None or not (self.path / CONFIG).is_file():
            return {}
        try:
            config: dict[str, Any] = load_config(self.path, trust_remote_code=self.trust_remote_code).to_dict()
        except ConfigError:  # an OpenVINO model works without the code or the version that knows its configuration
            return check_json(self.path / CONFIG)
        return config

    def write_tokenizer(self, folder: Path) -> bool:
        """Write the files of a tokenizer in memory; return False if there is none that has `save_pretrained`."""
        if not hasattr(self._tokenizer, "save_pretrained"):
            return False
        self._tokenizer.save_pretrained(folder)
        return True


def source_of(model: Any, tokenizer: Any, parameter: str, task: str | None = None) -> SourceModel | str:
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
    return SourceModel.from_model(model, tokenizer, task=task)


def _fingerprint_files(files: Iterable[Path]) -> str:
    return fingerprint([(file.name, fingerprint_file(file)) for file in files if file.is_file()])


def resolve_model(model: str, *, cache: Cache, trust_remote_code: bool = False, task: str | None = None) -> SourceModel:
    """Find a model; export it to OpenVINO if it is not an OpenVINO folder, and keep the export in the cache.

    Args:
        model: an OpenVINO folder, a Hugging Face folder, or a hub id.
        cache: where exports are kept.
        trust_remote_code: whether code that comes with the model may run.
        task: what it does; None finds that from its files.

    Raises:
        ConfigError: a local path that does not exist or holds no model.
        PrerequisiteError: a hub id that cannot be downloaded, or a model that cannot be exported.
    """
    folder, revision = Path(model).expanduser(), None
    if folder.is_dir():
        if main_file(folder).is_file():
            return _open_openvino(model, folder.resolve(), cache, trust_remote_code, task)
        if parts := [file.name for file in sorted(folder.glob("openvino_*_model.xml"))]:
            raise ConfigError(
                f"{folder} holds a model in parts ({some(parts)}), none of which is a language model; name another",
                key="model",
            )
        if not (folder / CONFIG).is_file():
            raise ConfigError(
                f"{folder} holds neither {MODEL_FILE} nor config.json; name a folder with a model, or a hub id",
                key="model",
            )
        check_folder(folder)
        files = sorted(file for pattern in _HF_WEIGHTS for file in folder.glob(pattern))
        content: Any = [(file.name, fingerprint_file(file)) for file in (*files, *companions(folder))]
    elif folder.exists() or model.startswith((".", "/", "~")):
        raise ConfigError(f"{model} is not a folder; name an existing folder or a hub id", key="model")
    else:
        revision = _hub_revision(model)
        content = (model, revision)
    other = [] if task is None or task == find_task(model).name else [task]  # than the export chooses by itself
    key = fingerprint(_EXPORT_VERSION, content, _exporting_versions(), trust_remote_code, *other)
    target = cache.models / key
    for _ in range(2):
        get_or_create_directory(target, lambda out: _export(model, revision, out, trust_remote_code, task))
        source = SourceModel(model, target, trust_remote_code, find_task(target, task))
        if _is_as_exported(source):
            return source
        _log.warning("the exported model in %s is damaged; it is exported again", target)
        shutil.rmtree(target, ignore_errors=True)
    raise PrerequisiteError(
        f"{target}: the files differ from what was written to them a moment ago. Check the disk, or set AUTOTUNE_CACHE "
        "to a folder on another one"
    )


def _open_openvino(model: str, folder: Path, cache: Cache, trust_remote_code: bool, task: str | None) -> SourceModel:
    """Check the files of an OpenVINO folder; its values are checked once and a marker is kept in the cache."""
    for xml in (main_file(folder), *part_files(folder)):
        check_openvino(xml, xml.with_suffix(".bin"))
    record = folder / "autotune.json"
    hashes = check_json(record).get("files") if record.is_file() else None
    for file in ir_files(folder):
        if isinstance(hashes, dict) and hashes.get(file.name) != fingerprint_file(file):
            raise ConfigError(
                "is not what `autotune export` wrote: it is damaged or was changed. Export the model again, or, if you "
                f"changed it on purpose, delete `files` from {record.name}.",
                file=file,
            )
    if (folder / CONFIG).is_file():
        check_json(folder / CONFIG)
    source = SourceModel(model, folder, trust_remote_code, find_task(folder, task))
    check_served(source.task, folder)
    marker = cache.models / f"{source.fingerprint}.finite"
    if not marker.is_file():
        check_irs(folder, model)
        with suppress(OSError), atomic_write(marker, durable=False) as temporary:
            temporary.touch()
    return source


def _exporting_versions() -> list[str]:
    """Return the versions of the packages that decide what an export looks like."""
    return [f"{package} {version(package)}" for package in ("transformers", "optimum-intel", "openvino")]


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


def _export(model: str, revision: str | None, out: Path, trust_remote_code: bool, task_name: str | None) -> None:
    """Check a Hugging Face model and export it into the folder `out`; the codes of a quantized checkpoint are kept."""
    folder = Path(model).expanduser() if revision is None else download(model, revision, weights=False)
    packing_of(check_json(folder / CONFIG), folder / CONFIG)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    task = find_task(folder, task_name)
    check_served(task, folder)
    find_exporter(config, folder / CONFIG, task)
    load_tokenizer(folder, trust_remote_code=trust_remote_code, vocabulary=getattr(config, "vocab_size", None))
    if revision is not None:
        folder = download(model, revision, weights=True)
    tensors = check_folder(folder)
    check_stored(tensors, model)
    checkpoint = Checkpoint.open(folder)
    if checkpoint is None:
        check_tensors(folder, config, tensors, task, trust_remote_code=trust_remote_code)
        _export_float(model, folder, out, trust_remote_code, task)
        check_logits(model, folder, out, config, task, trust_remote_code=trust_remote_code)
    else:
        with temporary_folder(out.parent / "float") as files:  # its name shows what a killed process left
            write_float_copy(checkpoint, files)
            config = load_config(files, trust_remote_code=trust_remote_code)
            check_tensors(files, config, check_folder(files), task, trust_remote_code=trust_remote_code)
            _export_float(model, files, out, trust_remote_code, task)
            check_logits(model, files, out, config, task, trust_remote_code=trust_remote_code)
        _keep_codes(checkpoint, out)
    for file in companions(folder):
        target = out / file.relative_to(folder)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
    source = SourceModel(model, out)
    check_irs(out, model)
    (out / _EXPORT_RECORD).write_text(_content_of(source), encoding="utf-8")


def _keep_codes(checkpoint: Checkpoint, out: Path) -> None:
    import openvino as ov

    whole = out / "kept"
    kept = keep_codes(ov.Core().read_model(out / MODEL_FILE), checkpoint)
    ov.save_model(kept, whole / MODEL_FILE, compress_to_fp16=False)
    # The float export is still memory-mapped; replacing its files keeps the mapping valid until it is released.
    for file in ir_files(whole):
        file.replace(out / file.name)
    whole.rmdir()


def _export_float(model: str, files: Path, out: Path, trust_remote_code: bool, task: Task) -> None:
    """Export with optimum-intel in the precision the weights are stored in, and add the tokenizer's files.

    Args:
        model: what the user calls it.
        files: the folder that it is read from.
        out: an empty folder.
        trust_remote_code: whether code that comes with the model may run.
        task: chooses the class of optimum-intel.
    """
    from optimum import intel
    from transformers import AutoTokenizer

    try:
        with quiet():
            exported = getattr(intel, task.export_class).from_pretrained(
                files,
                export=True,
                load_in_8bit=False,
                compile=False,
                trust_remote_code=trust_remote_code,
                **task.export_options,
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
            f"optimum-intel could not export {model} to OpenVINO ({reason(error)}). The configuration, tokenizer and "
            "tensors were checked before, so this is most likely a limit of the exporter: look for the message at "
            "https://github.com/huggingface/optimum-intel/issues, or export the model with `optimum-cli export "
            "openvino` under other versions and name that folder"
        ) from error
    if not main_file(out).is_file():
        raise PrerequisiteError(f"optimum-intel exported {model} without {MODEL_FILE}; choose a {task.kind}")
