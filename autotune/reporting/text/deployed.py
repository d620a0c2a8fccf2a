"""deployed.md: the front as users run it, and how its error splits into weights, activations and KV cache."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.common.formatting import label, markdown_table
from autotune.evaluation import SCORING_CONFIG, Measurement
from autotune.results.records import DEPLOYED_SOURCES, StudyResults


def deployed_markdown(results: StudyResults) -> str | None:
    """Write deployed.md; None if no model was scored as deployed."""
    found = results.deployed
    if found is None:
        return None
    names = [name for name in results.objectives if f"deployed_{name}" in results.trials]
    trials = [number for number in results.front if number in found.trials]
    lines = ["# As deployed", ""]
    properties = ", ".join(f"{key} {found.properties[key]}" for key in SCORING_CONFIG if key in found.properties)
    lines += [
        f"The search scores in f32: its error is that of the weights. Here the front runs with {properties}. "
        f"{cpu_sentence(found.cpu)}",
        "",
        "A column of activations or KV cache is the score with that error alone, minus the score of the search. The "
        "sum is that of weights, activations and KV cache, to compare with the score as deployed.",
    ]
    for name in names:
        header = ["trial", "settings", "weights", "activations", "KV cache", "sum", "as deployed"]
        rows = []
        for number in trials:
            scored = results.value(number, name)
            parts = [results.value(number, f"deployed_{name}_{source}") for source in DEPLOYED_SOURCES]
            if scored is None or None in parts:
                continue
            added = [part for part in parts if part is not None]
            values = [scored, *added, scored + sum(added)]
            whole = Measurement(
                results.value(number, f"deployed_{name}") or 0.0, results.stderr(number, f"deployed_{name}")
            )
            cells = [results.measurement_text(Measurement(value), name, stderr=False) for value in values]
            rows.append(
                [str(number), results.records[number].describe(), *cells, results.measurement_text(whole, name)]
            )
        lines += ["", f"## {label(name)}", "", markdown_table(header, rows, "rlrrrrr")]
    return "\n".join(lines) + "\n"


def cpu_sentence(cpu: Sequence[str] | None) -> str:
    """Say what the instruction sets of the CPU that measured support; None: unknown."""
    if cpu is None:
        return "The instruction sets of the CPU are unknown."
    eight = [name for name in cpu if name in ("avx512_vnni", "avx_vnni", "amx_int8")]
    if not eight:
        return (
            "This CPU has neither VNNI nor AMX, so OpenVINO does not quantize activations: "
            "DYNAMIC_QUANTIZATION_GROUP_SIZE has no effect on it, and may have one on the CPU of a user."
        )
    return f"This CPU has {', '.join(cpu)}: 8-bit activations are computed by {eight[0]}."
