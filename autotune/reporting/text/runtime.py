"""runtime.md and runtime.csv: the front's models with every setting of `runtime.search`."""

from __future__ import annotations

from autotune.common.formatting import DASH, markdown_table, number
from autotune.evaluation import SCORING_CONFIG
from autotune.reporting.text.deployed import cpu_sentence
from autotune.results.front.runtime import TOLERANCE, recommended_setting, runtime_frame
from autotune.results.records import RuntimeScores, StudyResults

HEADINGS = ("setting", "precision", "KV cache", "dynamic quantization")


def runtime_csv(results: StudyResults) -> str | None:
    """Write runtime.csv; None if no model was scored with runtime settings."""
    return None if results.runtime is None else runtime_frame(results).to_csv(index=False, lineterminator="\n")


def runtime_markdown(results: StudyResults) -> str | None:
    """Write runtime.md; None if no model was scored with runtime settings."""
    found = results.runtime
    if found is None:
        return None
    lines = [
        "# Runtime settings",
        "",
        "Each model of the front, as it runs with these properties of OpenVINO. Properties that `runtime.search` "
        f"leaves out have OpenVINO's default. {cpu_sentence(found.cpu)}",
        "",
        "The recommended setting (★) has the smallest KV cache, then the highest speed, of those with an error at most "
        f"{TOLERANCE:.0%} larger than with the most accurate setting. `autotune export` writes it; `--runtime N` takes "
        "another setting. Bytes are those of one token in the KV cache. Times are for a prompt of 256 tokens and the "
        "32 tokens after it, measured in turn, the best of 3.",
    ]
    for trial in (each for each in results.front if each in found.trials):
        scored, recommended = found.trials[trial], recommended_setting(results, trial)
        names = list(dict.fromkeys(name for each in scored for name in each.metrics if name in results.deciding))
        header = [*HEADINGS, *map(results.heading, names), "bytes per token", "first token (s)", "tokens/s"]
        rows = []
        for index, each in enumerate(scored):
            start = f"{index} ★" if index == recommended else str(index)
            rows.append([start, *_cells(results, each, names)])
        lines += ["", f"## Trial {trial}: {results.records[trial].describe()}", ""]
        lines += [markdown_table(header, rows, "r" * len(header))]
        errors = [f"- setting {index}: {each.error}" for index, each in enumerate(scored) if each.error]
        lines += ["", *errors] if errors else []
    return "\n".join(lines) + "\n"


def _cells(results: StudyResults, scored: RuntimeScores, names: list[str]) -> list[str]:
    cells = [scored.properties.get(name, DASH) for name in SCORING_CONFIG]
    cells += [results.measurement_text(scored.metrics.get(name), name) for name in names]
    cells += [f"{scored.cache_bytes:,}" if scored.cache_bytes else DASH]
    return [*cells, number(scored.first_token, 3), number(scored.tokens_per_second, 1)]
