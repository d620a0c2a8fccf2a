"""The candidate that optimum-intel proposes for a hub id: its default 4-bit configuration, the first trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.paths import HUB_ID, looks_like_path
from autotune.common.validation import Invalid

if TYPE_CHECKING:
    from autotune.config.config import Config

OPTIMUM_DEFAULT = "optimum-intel's default"
"""Name of that candidate."""

TABLE = "intel/openvino/configuration.py"
"""The file of optimum-intel that has the table, in the package `optimum`."""


def with_optimum_default(config: Config, note: Callable[[str], None]) -> Config:
    """Add the default 4-bit configuration of optimum-intel to the candidates, as the first one, if it has one.

    Args:
        config: the study's.
        note: receives why a configuration cannot be used.
    """
    from autotune.config.candidates import read_candidates

    name = hub_id(config.model)
    found = None if name is None else optimum_default(name)
    if found is None or any(each.name == OPTIMUM_DEFAULT for each in config.candidates):
        return config
    try:
        (first,) = read_candidates([{"name": OPTIMUM_DEFAULT, "config": found}], Path())
    except Invalid as error:
        reason = "; ".join(finding.message for finding in error.findings)
        note(f"optimum-intel's default configuration of {name} is not tried: {reason}")
        return config
    return config.model_copy(update={"candidates": (first, *config.candidates)})


def hub_id(model: str) -> str | None:
    """Return the hub id of a model: its name, or what the `config.json` of its folder says; None if there is none."""
    name: Any = model
    if Path(model).is_dir():
        try:
            name = json.loads((Path(model) / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
        except (OSError, ValueError, AttributeError):
            return None
    is_id = isinstance(name, str) and "/" in name and HUB_ID.fullmatch(name) and not looks_like_path(name)
    return name if is_id else None


def optimum_default(name: str) -> Mapping[str, Any] | None:
    """Return optimum-intel's default 4-bit configuration of a hub id as plain data; None if it has none."""
    package = find_spec("optimum")
    files = [Path(place) / TABLE for place in (package and package.submodule_search_locations) or ()]
    # The import takes seconds, so the file is searched for the name first.
    if not any(file.is_file() and f'/{name.split("/")[-1]}"' in file.read_text("utf-8") for file in files):
        return None
    from optimum.intel.openvino.configuration import get_default_quantization_config

    found = get_default_quantization_config(name, weight_format="int4")
    return None if found is None else json.loads(json.dumps(found))  # its enumerations are texts
