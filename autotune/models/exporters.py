"""Configurations of Hugging Face models, and the exporters of optimum-intel that serve them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.common.validation import nearest
from autotune.errors import ConfigError, PrerequisiteError
from autotune.models.architecture import first_lines, quiet
from autotune.models.checkpoint import CONFIG, check_json
from autotune.models.tasks.task import Task

_ROPE_MAJOR = 5
"""Version of transformers that first reads `rope_parameters`. With 4.57.6, a Qwen3 of base 1,000,000 had logits that
were off by 61%."""
_RIGHT_UP_TO = dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "5.3.0")
"""Types that are exported right with newer versions of transformers than their exporters in optimum-intel 2.1 allow:
they pass every step of benchmarks/families.py."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """optimum-intel's exporter of an architecture.

    Attributes:
        name: its class.
        minimum, maximum: versions of transformers that it works with; None is no limit.
    """

    name: str
    minimum: str | None
    maximum: str | None


def load_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load the `transformers` configuration of a folder.

    Raises:
        ConfigError: it cannot be built from config.json, or needs code that may not run.
    """
    from transformers import AutoConfig

    file = folder / CONFIG
    if kernels := sorted(set(_kernels(check_json(file)))):
        raise ConfigError(
            f"names code on the hub ({', '.join(kernels)}) as the implementation of its layers, which transformers "
            "before 5.3 runs without asking (CVE-2026-4372). Take the model from a source that you trust, or remove "
            "the key.",
            file=file,
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise ConfigError(
                "names code that comes with the model (`auto_map`), which runs only with your consent. Read that code, "
                "then set trust_remote_code: true.",
                file=file,
            ) from error
        raise ConfigError(
            f"transformers cannot read this configuration ({first_lines(error)}). Download it again, or correct it "
            "if you edited it.",
            file=file,
        ) from error
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if not hasattr(config, name):
            # PhiConfig of transformers 5.0.0 has no pad_token_id, nor has Phi's config.json, and the model reads it.
            # A default of the class serves the exporter as well, which loads the configuration again.
            setattr(type(config), name, None)
    return config


def _kernels(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hub repositories that a configuration names as implementations of attention or experts."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _kernels(value)
        elif isinstance(value, str) and "/" in value and "_implementation" in key:
            yield f"{key}: {value}"


def find_exporter(config: Any, file: Path, task: Task) -> Exporter:
    """Find the exporter of an architecture, and check the installed transformers against its limits.

    Args:
        config: the configuration that `load_config` returned.
        file: its file, for messages.
        task: what it is exported for.

    Raises:
        ConfigError: optimum-intel does not export this architecture for this task.
        PrerequisiteError: the architecture or the file needs another version of transformers.
    """
    import transformers
    from optimum.exporters.openvino import model_configs
    from optimum.exporters.tasks import TasksManager
    from packaging.version import Version

    _ = model_configs  # registers the architectures
    kind = str(config.model_type)
    supported = TasksManager.get_supported_model_type_for_task(task.export_task, "openvino")
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"`{kind}` is an encoder-decoder model; only causal language models (decoders) and encoders can be tuned. "
            "Choose one.",
            file=file,
        )
    if kind not in supported:
        raise ConfigError(
            f"optimum-intel exports no {task.kind} of model_type `{kind}`{nearest(kind, supported)}; it exports "
            f"{len(supported)} others, among them {', '.join(task.examples)}. If the model does something else, set "
            "`task`.",
            file=file,
        )
    with quiet():
        make = TasksManager.get_exporter_config_constructor(
            "openvino", model_type=kind, task=task.export_task, library_name="transformers"
        )
        exporter = make(config)
    limits = [getattr(exporter, f"{end}_TRANSFORMERS_VERSION", None) for end in ("MIN", "MAX")]
    minimum, maximum = (None if limit is None else str(limit) for limit in limits)
    if kind in _RIGHT_UP_TO:
        maximum = _RIGHT_UP_TO[kind]
        type(exporter).MAX_TRANSFORMERS_VERSION = maximum
    installed = Version(transformers.__version__)
    if maximum is not None and installed > Version(maximum):
        raise _version_error(kind, f"<= {maximum}", installed, f"transformers<={maximum}")
    if minimum is not None and installed < Version(minimum):
        raise _version_error(kind, f">= {minimum}", installed, f"transformers>={minimum}")
    if installed.major < _ROPE_MAJOR and getattr(config.get_text_config(), "rope_parameters", None):
        only_old = maximum is not None and Version(maximum).major < _ROPE_MAJOR
        raise PrerequisiteError(
            f"{file}: `rope_parameters` holds the rotary base and scaling, as transformers {_ROPE_MAJOR} saves them. "
            f"transformers {installed} ignores this key, so that the exported model would not be the original. "
            + (
                f"{kind} needs transformers <= {maximum} to be exported: replace the key by those of transformers 4, "
                "`rope_theta` and, if its rope_type is not default, `rope_scaling` with the other values"
                if only_old
                else f"pip install 'transformers>={_ROPE_MAJOR}" + (f",<={maximum}'" if maximum else "'")
            )
        )
    return Exporter(type(exporter).__name__, minimum, maximum)


def _version_error(kind: str, needed: str, installed: Any, requirement: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"{kind} needs transformers {needed} to be exported by optimum-intel; {installed} is installed: "
        f"pip install '{requirement}'"
    )
