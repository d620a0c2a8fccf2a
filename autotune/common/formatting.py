"""How numbers, sizes and settings are written, the same in every table, plot and sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import MOST_BITS

if TYPE_CHECKING:
    from autotune.evaluation import Metric

__all__ = [
    "DASH",
    "MINUS",
    "algorithms",
    "budget_text",
    "default_backup",
    "label",
    "latex_table",
    "markdown_table",
    "number",
    "percent",
    "score",
    "settings_text",
    "signed_percent",
    "size",
    "size_unit",
    "times",
]

DASH = "\N{EN DASH}"
"""What a table prints where there is nothing to print."""

MINUS = "\N{MINUS SIGN}"

LABELS = {
    "footprint": "footprint",
    "bits_per_weight": "bits per weight",
    "compression_rate": "compression rate",
    "kl_divergence": "KL divergence",
    "answer_kl_divergence": "KL divergence on answers",
    "top1_agreement": "top-1 agreement",
    "answer_top1_agreement": "top-1 agreement on answers",
    "similarity": "similarity",
    "fdt": "FDT",
    "fdt_norm": "FDT (normalised)",
    "sdt": "SDT",
    "sdt_norm": "SDT (normalised)",
    "perplexity": "perplexity",
    "perplexity_increase": "perplexity increase",
    "relative_error": "average relative error",
    "awq": "AWQ",
    "gptq": "GPTQ",
    "lora_correction": "LoRA correction",
    "lora_rank": "LoRA rank",
}

ALGORITHMS = {"awq": "AWQ", "scale_estimation": "SE", "gptq": "GPTQ", "lora_correction": "LoRA"}
"""Toggles in the order in which they are applied, with the field's short names."""


def label(name: str) -> str:
    """A metric's or setting's name as a reader says it."""
    return LABELS.get(name, name.replace("_", " "))


def is_missing(value: Any) -> bool:
    """None, NaN and pandas' NA."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def number(value: float | None, decimals: int | None = None) -> str:
    """About three significant digits (at least two decimals below 1000); `decimals` fixes the places instead."""
    if value is None or is_missing(value):
        return DASH
    value = float(value)
    if value == 0:
        return "0"
    magnitude = abs(value)
    if decimals is None:
        if magnitude >= 1e6 or magnitude < 1e-6:
            return f"{value:.2e}"
        decimals = max(2 if magnitude < 1000 else 0, 2 - math.floor(math.log10(magnitude)))
    return f"{value:.{decimals}f}"


def size_unit(largest: float) -> tuple[float, str]:
    """The unit in which sizes up to `largest` bytes read well, as (bytes in it, its name); powers of 1000."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= scale:
            return scale, unit
    return 1.0, "B"


def size(count: float | None) -> str:
    """Bytes as kB, MB or GB (powers of 1000) with four significant digits."""
    if count is None or is_missing(count):
        return DASH
    scale, unit = size_unit(abs(float(count)))
    scaled = float(count) / scale
    if unit == "B":
        return f"{int(scaled)} B"
    return f"{scaled:.{max(0, 3 - len(str(int(abs(scaled)))) + 1)}f} {unit}"


def percent(value: float | None, decimals: int = 0) -> str:
    """A number that is already in percent."""
    return DASH if value is None or is_missing(value) else f"{float(value):.{decimals}f}%"


def signed_percent(value: float) -> str:
    """A relative difference in percent, with its sign (a true minus)."""
    if abs(value) < 0.05:
        return "0%"
    text = f"{value:+.0f}%" if abs(value) >= 9.95 else f"{value:+.1f}%"
    return text.replace("-", MINUS)


def times(value: float | None) -> str:
    """A compression rate, as NNCF's tables print it."""
    return DASH if value is None or is_missing(value) else f"{float(value):.1f}x"


def score(value: float | None, stderr: float | None = None, *, name: str = "", metric: Metric | None = None) -> str:
    """A measured value with ± its standard error, both to the second digit of the error; percent and bytes as such."""
    if value is None or is_missing(value):
        return DASH
    if name == "footprint":
        return size(value)
    suffix = "%" if metric is not None and metric.unit in ("%", "percent") else ""
    if stderr is None or is_missing(stderr) or float(stderr) <= 0:
        return number(value) + suffix
    decimals = min(12, max(0, 1 - math.floor(math.log10(float(stderr)))))
    return f"{number(value, decimals)} ± {float(stderr):.{decimals}f}{suffix}"


def algorithms(settings: Mapping[str, Any], *, separator: str = " + ") -> str:
    """The toggles that are on, e.g. ``AWQ + SE``; LoRA with its rank."""
    names = []
    for key, short in ALGORITHMS.items():
        if not is_missing(settings.get(key)) and settings.get(key):
            rank = settings.get("lora_rank") if key == "lora_correction" else None
            if key == "gptq" and not is_missing(order := settings.get("gptq_act_order")) and not order:
                short = "GPTQ in channel order"
            names.append(short if rank is None or is_missing(rank) else f"{short} {int(rank)}")
    return separator.join(names)


def default_backup(mode: str) -> str:
    """The backup mode that a mode has where none is asked for."""
    return FORMATS[mode].backup if mode in FORMATS else "int8_asym"


def budget_text(budget: float) -> str:
    """``4.5 bits a weight``, or ``13.8 MB``: what a plan was allowed to take."""
    return f"{budget:g} bits a weight" if budget <= MOST_BITS else size(budget)


def settings_text(settings: Mapping[str, Any], *, short: bool = False) -> str:
    """One line that names a trial's settings as far as they matter, e.g. ``int4_asym g64 r0.8 all AWQ+SE``.

    The long form, for sentences, is ``int4_asym, group size 64, ratio 0.8, all layers, AWQ + SE``.
    """
    mode = settings.get("mode")
    if is_missing(mode):
        return DASH
    parts = [str(mode)]
    budget = settings.get("budget")
    if settings.get("allocation") == "budget" and budget is not None and not is_missing(budget):
        text = budget_text(float(budget))
        return f"{mode} {text.replace(' bits a weight', 'b').replace(' ', '')}" if short else f"{mode}, at most {text}"
    group, ratio, backup = settings.get("group_size"), settings.get("ratio"), settings.get("backup_mode")
    fixed = str(mode) in FORMATS and FORMATS[str(mode)].fixed_group_size
    if not is_missing(group) and group is not None and not fixed:
        value = "per channel" if int(group) == -1 else int(group)
        parts.append(f"g{int(group)}" if short else f"group size {value}".replace("group size per", "per"))
    if ratio is not None and not is_missing(ratio) and float(ratio) < 1:
        parts.append(f"r{float(ratio):.3g}" if short else f"ratio {float(ratio):g}")
    if not is_missing(settings.get("all_layers")) and settings.get("all_layers"):
        parts.append("all" if short else "all layers")
    if (
        backup is not None
        and not is_missing(backup)
        and str(backup) != default_backup(str(mode))
        and not str(mode).startswith("int8")
    ):
        parts.append(f"backup {backup}")
    toggles = algorithms(settings, separator="+" if short else " + ")
    if toggles:
        parts.append(toggles)
    return (" " if short else ", ").join(parts)


def markdown_table(header: list[str], rows: list[list[str]], align: str = "") -> str:
    """A GitHub table with aligned source columns; `align` holds one of ``l`` and ``r`` a column (default ``l``)."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
    align = align.ljust(len(header), "l")
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: list[str]) -> str:
        padded = (c.rjust(w) if a == "r" else c.ljust(w) for c, w, a in zip(row, widths, align, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        f"{'-' * (w + 1)}:" if a == "r" else f":{'-' * (w + 1)}" for w, a in zip(widths, align, strict=True)
    )
    return "\n".join([line(cells[0]), f"|{rule}|", *(line(row) for row in cells[1:])])


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "★": r"$\star$",
    "→": r"$\to$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    DASH: "--",
    MINUS: "$-$",
    "…": r"\dots{}",
}


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(character, character) for character in text)


def latex_table(header: list[str], rows: list[list[str]], align: str = "") -> str:
    """A ``tabular`` of booktabs; arguments as of `markdown_table`."""
    align = align.ljust(len(header), "l")
    lines = [" & ".join(latex_text(" ".join(cell.split())) for cell in row) + r" \\" for row in [header, *rows]]
    start, end = f"\\begin{{tabular}}{{{align}}}", r"\end{tabular}"
    return "\n".join([start, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", end]) + "\n"
