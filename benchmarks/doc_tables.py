"""Write the measured tables of README.md and docs/ from stored results: `python benchmarks/doc_tables.py`.

The results are in docs/data/*.json, each with its machine, versions and command, and in the demo study of
reports/example. A page marks the place of a table with two comments, and everything between them is replaced:

    <!-- table: settings int4_asym g64 | int4_asym g64 ratio 0.8 * -->
    <!-- end -->

`--check` changes nothing and fails if a page is out of date.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "data"
EXAMPLE = ROOT / "reports" / "example"
BLOCK = re.compile(r"<!-- table: (?P<name>[\w-]+) ?(?P<argument>[^\n]*?) -->\n.*?<!-- end -->", re.DOTALL)
KL = "KL, 1e-3 nats/token"


def stored(name: str) -> dict[str, Any]:
    """Read one file of results."""
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def provenance(found: dict[str, Any]) -> str:
    """Format the line below a table: command, model, machine, versions, date."""
    machine, versions = found["machine"], found["versions"]
    if machine is None:
        return f"*`{found['command']}`. Machine and versions were not recorded ({found['recorded_from']}).*"
    named = ", ".join(f"{name} {versions[name]}" for name in ("openvino", "nncf") if name in versions)
    where = f"{machine['cpu']}, {machine['cores']} cores; {named}; {found['date']}"
    return f"*`{found['command']}` on {found['model']}; {where}.*"


def milli(value: float, digits: int = 3) -> str:
    """Format a KL divergence in thousandths of a nat."""
    return f"{1000 * value:.{digits}f}"


def quotient(value: float) -> str:
    """Format a ratio with about three digits."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def settings(argument: str) -> str:
    """Rows of `quality.json` and `settings.json` by name; a name that ends in ``*`` selects by its beginning."""
    quality, more = stored("quality"), stored("settings")
    rows = {row["setting"]: row for row in [*more["rows"], *quality["rows"]]}
    chosen: list[str] = []
    for name in (part.strip() for part in argument.split("|")):
        begins = name.removesuffix("*").strip()
        found = [
            key for key in rows if key == name or (name.endswith("*") and key.startswith(begins) and key != begins)
        ]
        if not found:
            raise ValueError(f"no result for {name!r} in docs/data/quality.json or settings.json")
        chosen += sorted(found, key=lambda key: -rows[key]["kl"]) if len(found) > 1 else found
    first = rows[chosen[0]]
    cells = [
        [
            f"`{name}`",
            f"{rows[name]['bytes']:,}",
            f"{milli(rows[name]['kl'])} ± {milli(rows[name]['stderr'])}",
            quotient(rows[name]["kl"] / first["kl"]),
            quotient(rows[name]["bytes"] / first["bytes"]),
        ]
        for name in dict.fromkeys(chosen)
    ]
    return f"{table(['setting', 'bytes', KL, 'KL / first row', 'bytes / first row'], cells)}\n\n{provenance(quality)}"


def quality(argument: str) -> str:
    """One group of settings, autotune beside NNCF, with the geometric mean of the ratios."""
    found = stored("quality")
    cells = [
        [
            f"`{row['setting']}`",
            f"{row['bytes']:,}",
            f"{milli(row['kl'])} ± {milli(row['stderr'])}",
            f"{row['nncf_bytes']:,}",
            milli(row["nncf_kl"]),
            f"{row['ratio']:.3f}",
            "" if row["standard_errors"] is None else f"{row['standard_errors']:+.1f}",
        ]
        for row in found["rows"]
        if row["group"] == argument
    ]
    cells.append(["geometric mean", "", "", "", "", f"{found['geometric_means'][argument]:.3f}", ""])
    heads = ["setting", "bytes", KL, "NNCF: bytes", "NNCF: KL", "ratio of KL", "standard errors"]
    return f"{table(heads, cells)}\n\n{provenance(found)}"


def summary(argument: str) -> str:
    """The rows of README that compare autotune with NNCF."""
    quality = stored("quality")
    rows = {row["setting"]: row for row in quality["rows"]}
    best = quality["best"]
    engine = {row["setting"]: row for row in stored("engine")["rows"]}
    search = [row["seconds"] for row in stored("search")["rows"]]

    def divergence(title: str, name: str) -> list[str]:
        row = rows[name]
        return [title, milli(row["nncf_kl"]), milli(row["kl"]), f"{row['ratio']:.2f}"]

    def seconds(title: str, peer: float, ours: float) -> list[str]:
        return [title, f"{peer:,}", f"{ours:,}", quotient(ours / peer)]

    least = rows[best["nncf"]]["nncf_kl"]
    fast = engine["int4_asym g64 GPTQ"]
    cells = [
        divergence("KL, int4_asym g64, plain rounding (1e-3 nats/token)", "int4_asym g64"),
        divergence("KL, the same with AWQ and scale estimation", "int4_asym g64 AWQ SE"),
        [
            "KL, the best of each: GPTQ, `--effort extreme`",
            milli(least),
            milli(best["kl"]),
            f"{best['kl'] / least:.2f}",
        ],
        seconds("Seconds for GPTQ, 22 M parameters, statistics cached", fast["nncf_seconds"], fast["seconds"]),
        seconds("Seconds for 48 trials, compressed and scored", search[-1], search[0]),
    ]
    return table(["measured", "NNCF 3.4.0", "autotune", "ratio"], cells)


def engine(argument: str) -> str:
    """Seconds of each algorithm beside NNCF."""
    found = stored("engine")
    cells = [
        [f"`{row['setting']}`", f"{row['seconds']:.2f}", f"{row['nncf_seconds']:.2f}", f"{row['times_faster']:.1f}"]
        for row in found["rows"]
    ]
    heads = ["setting", "seconds, statistics cached", "NNCF", "times faster"]
    passes = (
        f"The calibration pass, shared by all settings, took {found['calibration_pass_seconds']} s. "
        f"A plain f32 forward pass of the same tokens took {found['plain_forward_seconds']} s."
    )
    return f"{table(heads, cells)}\n\n{passes}\n\n{provenance(found)}"


def engine_1b(argument: str) -> str:
    """Seconds on a model of a billion parameters."""
    found = stored("engine_1b")
    cells = [[f"`{row['setting']}`", f"{row['seconds']}", f"{row['nncf_seconds']}"] for row in found["rows"]]
    return f"{table(['setting', 'seconds, calibration included', 'NNCF'], cells)}\n\n{provenance(found)}"


def search(argument: str) -> str:
    """Seconds of a whole search."""
    found = stored("search")
    refused = next(row["refused_settings"] for row in found["rows"] if "refused_settings" in row)
    cells = [[row["case"], f"{row['seconds']:,}"] for row in found["rows"]]
    later = found["processor"]
    machine, volume = later["machine"], later["hypervolume_held_out"]
    note = (
        f"NNCF refuses {refused} of the 48 settings. A later version was measured in processor seconds of all cores "
        f"({machine['cpu']}, {machine['cores']} cores, {later['date']}): {later['cold']} with an empty cache and "
        f"{later['warm']} with a warm one, {later['front']} models on the front. For every third setting NNCF took "
        f"{later['nncf']:,}, which is about {later['nncf_all']:,} for all 48. On held-out text, the front of these "
        f"settings has a hypervolume of {volume['autotune']:.3f} (NNCF {volume['nncf']:.3f})."
    )
    return f"{table(['48 trials of the preset `full`', 'seconds'], cells)}\n\n{note}\n\n{provenance(found)}"


def metrics(argument: str) -> str:
    """Return the separation of neighbouring settings by each metric."""
    found = stored("metrics")
    cells = [[f"`{row['metric']}`", *(f"{value:.1f}" for value in row["apart"])] for row in found["rows"]]
    return f"{table(['metric', *found['pairs']], cells)}\n\n{provenance(found)}"


def listed(argument: str) -> str:
    """Return the table of a file that has heads and cells."""
    found = stored(argument)
    cells = [[each if isinstance(each, str) else f"{each:,}" for each in row] for row in found["rows"]]
    return f"{table(found['heads'], cells)}\n\n{found['measured']} {provenance(found)}"


def exported_with(entry: dict[str, Any]) -> list[str]:
    """Return the versions of transformers with which a type is exported and has its logits, oldest first."""
    steps = ("export", "original_logits")
    found = [v for v, result in entry["results"].items() if all("result" in result.get(step, {}) for step in steps)]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def families(argument: str) -> str:
    """The model types of `families.json` that a version of transformers exports (``served``), or the others."""
    which, version = argument.split()
    found = stored("families")
    steps = ("scoring", "weights", "int8", "int4", "budget", "logits", "optimum", "genai")
    cells, causes = [], []
    for name, entry in sorted(found["rows"].items()):
        versions, results = exported_with(entry), entry["results"].get(version, {})
        errors = {
            s: results[s]["error"] for s in ("export", "original_logits", *steps) if "error" in results.get(s, {})
        }
        limits = f"{entry['minimum']} to {entry['maximum'] or 'any'}"
        if (version in versions) != (which == "served"):
            continue
        if version in versions:
            marks = ["-" if step not in results else "no" if step in errors else "yes" for step in steps]
            cells.append([f"`{name}`", limits, ", ".join(versions), *marks])
            causes += [f"- `{name}`, {step}: {error}" for step, error in errors.items()]
        else:
            cells.append(
                [f"`{name}`", limits, ", ".join(versions) or "none", next(iter(errors.values()), "not measured")]
            )
    heads = ["model type", "limits of the exporter", "exported with"]
    heads += [*steps] if which == "served" else [f"cause with {version}"]
    parts = [table(heads, cells), *(["\n".join(causes)] if causes else []), provenance(found)]
    return "\n\n".join(parts)


def families_versions(argument: str) -> str:
    """The number of model types that the exporter's limits allow with each version, and that were exported."""
    from packaging.version import Version

    found = stored("families")
    types = found["rows"].values()
    cells = []
    for version in argument.split():
        fits = [e for e in types if Version(e["minimum"]) <= Version(version) <= Version(e["maximum"] or version)]
        measured = [e for e in types if version in e["results"]]
        exported = str(sum(version in exported_with(e) for e in types))
        if len(measured) < len(types):
            exported = f"{exported} of {len(measured)} measured" if measured else "not measured"
        cells.append([version, str(len(fits)), exported])
    heads = ["transformers", f"within the exporter's limits, of {len(types)}", "exported"]
    return f"{table(heads, cells)}\n\n{provenance(found)}"


def mutated_models(argument: str) -> str:
    """The outcomes of `mutated_models.json` by kind of change."""
    found = stored("mutated_models")
    outcomes = ("right", "refused", "late", "WRONG")
    counts = Counter((row["kind"], row["outcome"]) for row in found["rows"].values())
    kinds = [*sorted({kind for kind, _ in counts}), "all"]
    counts += Counter({("all", outcome): sum(counts[kind, outcome] for kind in kinds) for outcome in outcomes})
    cells = [
        [kind.replace("_", " "), str(sum(counts[kind, outcome] for outcome in outcomes))]
        + [str(counts[kind, outcome]) for outcome in outcomes]
        for kind in kinds
    ]
    heads = ["change", "folders", "exported, right", "refused before the export", "refused after it", "wrong"]
    return f"{table(heads, cells)}\n\n{provenance(found)}"


def racing(argument: str) -> str:
    """Rows of `racing.json`: share of tokens, wrong stops and equal fronts by precision."""
    found = stored("racing")
    heads = [
        "study",
        "`study.precision`",
        "tokens scored",
        "in single seeds",
        "stopped",
        "of these wrongly",
        "same front up to ties",
    ]
    rows = [
        [
            row["study"],
            (row["precision"] or "none") + (", trials shuffled" if row.get("trials_shuffled") else ""),
            f"{row['tokens']:.1f}%",
            f"{row['least']:.1f} to {row['most']:.1f}%",
            str(row["stopped"]),
            str(row["wrong"]),
            f"{row['same']}% of seeds",
        ]
        for row in found["rows"]
    ]
    return f"{table(heads, rows)}\n\n{provenance(found)}"


def trials() -> list[dict[str, str]]:
    """The trials of the demo study that have all scores."""
    with (EXAMPLE / "trials.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["state"] == "COMPLETE"]


def example_provenance() -> str:
    """Format the line below a table of the demo study."""
    manifest = json.loads((EXAMPLE / "manifest.json").read_text(encoding="utf-8"))
    machine, versions = manifest["machine"], manifest["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores; openvino {versions['openvino']}; {manifest['created'][:10]}"
    return f"*`make example` (reports/example); {where}.*"


def front(argument: str) -> str:
    """Every n-th point of the demo study's front, largest first."""
    points = sorted((row for row in trials() if row["on_front"] == "True"), key=lambda row: -int(row["footprint"]))
    step = int(argument or 1)
    chosen = [
        row for index, row in enumerate(points) if index % step == 0 or row is points[-1] or row["knee"] == "True"
    ]
    cells = [
        [
            f"{row['trial']}{' (knee)' if row['knee'] == 'True' else ''}",
            f"budget, {float(row['budget']):g} bits" if row["allocation"] == "budget" else row["mode"],
            f"{int(row['footprint']) / 1e6:.3f} MB",
            f"{float(row['compression_rate']):.1f}x",
            f"{milli(float(row['kl_divergence']))} ± {milli(float(row['kl_divergence_stderr']))}",
            f"{float(row['int4_percent']):.0f}%",
        ]
        for row in chosen
    ]
    heads = ["trial", "settings", "size", "compression rate", KL, "in 4 bits"]
    return f"{table(heads, cells)}\n\n{example_provenance()}"


def budgets(argument: str) -> str:
    """Each uniform setting of the demo study beside the most accurate budget trial of at most its size."""
    finished = trials()
    cells: list[list[str]] = []
    for row in finished:
        if row["allocation"] == "budget" or row["mode"] == "int8_asym":
            continue
        smaller = [
            other
            for other in finished
            if other["allocation"] == "budget" and int(other["footprint"]) <= int(row["footprint"])
        ]
        if not smaller:
            continue
        best = min(smaller, key=lambda other: float(other["kl_divergence"]))
        used = [name for name in ("awq", "scale_estimation", "gptq") if row[name] == "True"]
        text = f"`{row['mode']}` g{float(row['group_size']):.0f}"
        text += f" ratio {float(row['ratio']):g}" if float(row["ratio"]) < 1 else ""
        text += f" {row['sensitivity_metric']}" if row["sensitivity_metric"] else ""
        text += " all_layers" if row["all_layers"] == "True" else ""
        text += f" + {', '.join(used)}" if used else ""
        ours, peer = float(best["kl_divergence"]), float(row["kl_divergence"])
        cells.append(
            [
                text,
                f"{int(row['footprint']):,}",
                milli(peer),
                f"{int(best['footprint']):,}",
                milli(ours),
                quotient(ours / peer),
            ]
        )
    heads = ["uniform setting", "bytes", KL, "budget: bytes", "budget: KL", "ratio of KL"]
    return f"{table(heads, cells)}\n\n{example_provenance()}"


def chaos(prefixes: str) -> str:
    """Injected faults whose names begin with one of the prefixes: counts, what was lost, seconds to recover."""
    found, rows = stored("chaos"), []
    for row in found["rows"]:
        if row["fault"].startswith(tuple(prefixes.split(" | "))):
            seconds = "–" if row["seconds"] is None else f"{row['seconds']:g}"
            lost = "; ".join(row["lost"]) or "nothing"
            rows.append([row["fault"], str(row["injected"]), str(row["survived"]), lost, str(row["repeated"]), seconds])
    heads = ["fault", "injected", "survived", "lost", "trials repeated", "seconds, median"]
    return f"{table(heads, rows)}\n\n{provenance(found)}"


def load(argument: str) -> str:
    """Measurements of the group load of benchmarks/chaos.py."""
    found = stored("chaos")
    rows = [row for row in found["rows"] if row["fault"].startswith("load: ")]
    cells = [[row["fault"].removeprefix("load: "), "; ".join(row["lost"]) or row["note"]] for row in rows]
    return f"{table(['load', 'result'], cells)}\n\n{provenance(found)}"


TABLES: dict[str, Callable[[str], str]] = {
    "settings": settings,
    "quality": quality,
    "nncf-summary": summary,
    "engine": engine,
    "engine-1b": engine_1b,
    "search": search,
    "metrics": metrics,
    "listed": listed,
    "families": families,
    "families-versions": families_versions,
    "mutated-models": mutated_models,
    "racing": racing,
    "front": front,
    "budgets": budgets,
    "chaos": chaos,
    "load": load,
}


def filled(page: str) -> str:
    """Replace every marked table of a page."""

    def block(match: re.Match[str]) -> str:
        mark = match[0].splitlines()[0]
        return f"{mark}\n\n{TABLES[match['name']](match['argument'])}\n\n<!-- end -->"

    return BLOCK.sub(block, page)


def pages() -> Iterator[Path]:
    """The files that may have tables."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    options = parser.parse_args()
    changed = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            changed.append(str(page.relative_to(ROOT)))
            if not options.check:
                page.write_text(filled(text), encoding="utf-8")
    print(f"{'out of date' if options.check else 'written'}: {', '.join(changed) or 'none'}")
    if options.check and changed:
        sys.exit(1)


if __name__ == "__main__":
    main()
