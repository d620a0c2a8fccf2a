"""Which variants a search space allows a budget to be spent on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autotune.compression.format_table import FORMATS
from autotune.compression.settings import INT8_MODES, Settings
from autotune.space_model import Range, SearchSpace

__all__ = ["allowed_settings"]


def allowed_settings(space: SearchSpace) -> list[Settings]:
    """Uniform settings whose variants together make the menus.

    Every mode, group size and backup mode of the space is allowed; embeddings and the last layer may have the small
    formats where `all_layers` may be true. Of the algorithms the strongest are taken that the space allows (GPTQ, on
    searched scales where scale_estimation is allowed as well): they cost no bytes. AWQ and LoRA correction are left
    out, see `menus.make_menus`; ratio and sensitivity_metric say nothing here.
    """
    parameters = space.parameters

    def values(name: str, default: Any) -> tuple[Any, ...]:
        parameter = parameters.get(name)
        if parameter is None:
            return (default,)
        known = parameter.values
        return known if known is not None else (parameter.low, parameter.high) if isinstance(parameter, Range) else ()

    common: dict[str, Any] = {}
    if "ignored_scope" in parameters:
        common["ignored_scope"] = tuple(values("ignored_scope", ())[0])
    if "group_size_fallback" in parameters:
        common["group_size_fallback"] = values("group_size_fallback", "adjust")[0]
    modes = values("mode", "int8_asym")
    found: list[Settings] = []
    for mode in modes:
        if mode in INT8_MODES:
            found.append(Settings(mode=mode, **common))
            continue
        fmt = FORMATS[mode]
        uniform = Settings(mode=mode, all_layers=True in values("all_layers", False), **common)
        if mode == "codebook":
            uniform = replace(uniform, codebook=tuple(values("codebook", ())[0]))
        if fmt.takes_algorithms:
            gptq = True in values("gptq", False)
            order = gptq and True in values("gptq_act_order", True)
            searched = True in values("scale_estimation", False)
            uniform = replace(uniform, gptq=gptq, gptq_act_order=order or not gptq, scale_estimation=searched)
        sizes = (None,) if fmt.fixed_group_size else values("group_size", None)
        found += [replace(uniform, group_size=size) for size in sizes]
    # Without an 8-bit mode, what the small formats leave has the backup mode; "none" is on every menu.
    backups = values("backup_mode", "int8_asym")
    found += [Settings(mode=mode, **common) for mode in backups if mode in INT8_MODES]
    return list(dict.fromkeys(found))
