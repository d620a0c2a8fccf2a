"""Restrict a search space to what target devices take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autotune.common.validation import Finding, Invalid
from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import BACKUP_MODES
from autotune.compression.targets import RESTRICTED, conflict, refusal
from autotune.config.space.parse import ALL_PARAMETERS
from autotune.config.space.space import Choices, Range, SearchSpace


def restrict(space: SearchSpace, targets: Sequence[str]) -> SearchSpace:
    """Return the part of a space that all these devices take; `left_out` says what falls away, and why.

    A space that names no backup mode gets one if the devices do not take the default.

    Raises:
        Invalid: nothing is left of a parameter.
    """
    parameters, left_out, findings = dict(space.parameters), [*space.left_out], []
    for key in [key for key in RESTRICTED if key in parameters]:
        parameter = parameters[key]
        values = parameter.values
        if values is None and isinstance(parameter, Range):
            values = (parameter.low, parameter.high)
        conflicts = {value: conflict(key, value, targets) for value in values or ()}
        refused = [value for value, found in conflicts.items() if found is not None]
        kept = tuple(value for value, found in conflicts.items() if found is None)
        if refused and not kept:
            findings.append(Finding((key,), f"{refusal(key, refused[0], targets)}; change the space or the target"))
        elif refused:
            device, taken = conflicts[refused[0]] or ("", "")
            what = ", ".join(map(str, refused)) if len(refused) <= 4 else f"{refused[0]} to {refused[-1]}"
            left_out.append(f"{key} {what}: {device} takes {taken}")
            parameters[key] = Choices(kept)
    if findings:
        raise Invalid(*findings)
    backup = conflict("backup_mode", "int8_asym", targets)
    if "backup_mode" not in parameters and backup and any(FORMATS[m].bits < 8 for m in space.values("mode")):
        chosen = next(mode for mode in ("int8_sym", *BACKUP_MODES) if conflict("backup_mode", mode, targets) is None)
        parameters["backup_mode"] = Choices((chosen,))
        left_out.append(f"backup_mode int8_asym, the default; {chosen} instead: {backup[0]} takes {backup[1]}")
    if parameters.get("allocation") == Choices(("ratio",)) and "allocation" in space.parameters:
        for key in ("allocation", "budget", "runtime_compressed"):
            parameters.pop(key, None)
    ordered = {key: parameters[key] for key in ALL_PARAMETERS if key in parameters}
    return replace(space, parameters=ordered, left_out=tuple(left_out))
