"""deployed.md: the front as users run it, and how its error splits into weights, activations and KV cache."""

from __future__ import annotations

from autotune.common.formatting import label, markdown_table
from autotune.evaluation import SCORING_CONFIG, Measurement
from autotune.results.deployed import SOURCES, cpu_sentence
from autotune.results.records import StudyResults


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
        f"{cpu_sentence(found)}",
        "",
        "A column of activations or KV cache is the score with that error alone, minus the score of the search. The "
        "sum is that of weights, activations and KV cache, to compare with the score as deployed.",
    ]
    for name in names:
        header = ["trial", "settings", "weights", "activations", "KV cache", "sum", "as deployed"]
        rows = []
        for number in trials:
            scored = results.value(number, name)
            parts = [results.value(number, f"deployed_{name}_{source}") for source in SOURCES]
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
