"""Scores as deployed, and how the error splits into weights, activations and KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.evaluation import Measurement

if TYPE_CHECKING:
    import pandas as pd

SOURCES = ("activations", "kv_cache")
"""The errors that a deployment adds to that of the weights."""


@dataclass(frozen=True, slots=True)
class DeployedScores:
    """Scores with the properties of a deployment.

    Attributes:
        trials: trial number -> ``deployed``, or one of `SOURCES` for that error alone beside that of the weights ->
            metric -> score.
        properties: of the deployment, as OpenVINO reports them.
        cpu: instruction sets for 8-bit and 16-bit arithmetic of the machine that measured; None if unknown.
    """

    trials: Mapping[int, Mapping[str, Mapping[str, Measurement]]]
    properties: Mapping[str, str]
    cpu: tuple[str, ...] | None


def add_deployed(frame: pd.DataFrame, deployed: DeployedScores) -> None:
    """Add ``deployed_<metric>`` with its ``_stderr``, and by how much activations and KV cache alone change the score.

    The columns of `SOURCES` are ``deployed_<metric>_<source>``, the score with that error alone minus the score of the
    search. They and the error of the weights add up to the deployed score if the errors are independent.
    """
    names = {name: None for parts in deployed.trials.values() for name in parts.get("deployed", {})}
    for name in names:
        columns: dict[str, list[float]] = {f"deployed_{name}": [], f"deployed_{name}_stderr": []}
        columns |= {f"deployed_{name}_{source}": [] for source in SOURCES}
        for number, scored in zip(frame["trial"], frame[name], strict=True):
            parts = deployed.trials.get(int(number), {})
            whole = parts.get("deployed", {}).get(name)
            columns[f"deployed_{name}"].append(_number(whole and whole.value))
            columns[f"deployed_{name}_stderr"].append(_number(whole and whole.stderr))
            for source in SOURCES:
                alone = parts.get(source, {}).get(name)
                columns[f"deployed_{name}_{source}"].append(_number(alone and alone.value - float(scored)))
        for column, values in columns.items():
            frame[column] = values


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def cpu_sentence(deployed: DeployedScores) -> str:
    """Say what the CPU that measured supports, and what follows from it."""
    if deployed.cpu is None:
        return "The instruction sets of the CPU are unknown."
    eight = [name for name in deployed.cpu if name in ("avx512_vnni", "avx_vnni", "amx_int8")]
    if not eight:
        return (
            "This CPU has neither VNNI nor AMX, so OpenVINO does not quantize activations: "
            "DYNAMIC_QUANTIZATION_GROUP_SIZE has no effect on it, and may have one on the CPU of a user."
        )
    return f"This CPU has {', '.join(deployed.cpu)}: 8-bit activations are computed by {eight[0]}."
