"""Format numbers and sizes as text, the same in every table, plot and sentence."""

from __future__ import annotations

import math
import re
from typing import Any, Protocol

DASH = "\N{EN DASH}"
"""The content of a table cell without a value."""

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
    "chat_similarity": "similarity in chats",
    "chat_kl_divergence": "KL divergence in chats",
    "chat_top1_agreement": "top-1 agreement in chats",
    "perplexity": "perplexity",
    "perplexity_increase": "perplexity increase",
    "relative_error": "average relative error",
    "awq": "AWQ",
    "gptq": "GPTQ",
    "lora_correction": "LoRA correction",
    "lora_rank": "LoRA rank",
}


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, line separators, and those that reverse the order of letters."""


def shortened(text: str, most: int) -> str:
    """Replace the middle of a text of more than `most` characters by dots."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - 3 - end]}...{text[-end:]}"


def printable(text: str) -> str:
    """Replace characters that control a terminal by their codes, such as ``\\u001b``, which JSON reads as well."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable_data(data: Any) -> Any:
    """Apply `printable` to every text of plain data, keys included."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, dict):
        return {printable_data(key): printable_data(value) for key, value in data.items()}
    return [printable_data(item) for item in data] if isinstance(data, list) else data


def without_password(url: str) -> str:
    """Replace the password of a storage URL by ``PASSWORD``: before the host, or among the options."""
    url = re.sub(r"(?<=://)([^/@:]*):.*@", r"\1:PASSWORD@", url, flags=re.DOTALL)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&]*", r"\1PASSWORD", url)


def problem_of(error: BaseException, url: str) -> str:
    """Return the first line of a database's error without the password of its URL, or what a driver took for parts."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    secrets = re.findall(r"(?s)://[^/@:]*:(.*)@", url)
    secrets += re.findall(r"(?i)[?&][^=&]*(?:pass|secret|token)[^=&]*=([^&]*)", url)
    parts = {part for secret in secrets for part in re.split("[@/:?]", secret) if part}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "…")
    return text


def csv_cell(value: Any) -> Any:
    """Put an apostrophe before a text that spreadsheets would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def markdown_text(text: str) -> str:
    """Make text that may come from a model harmless in Markdown: no HTML, links, images or further lines."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.splitlines())).replace("](", "]\\(").replace("][", "]\\[")


def label(name: str) -> str:
    """Return the name of a metric or setting as text."""
    return LABELS.get(name, name.replace("_", " "))


def is_missing(value: Any) -> bool:
    """Return True for None, NaN and pandas' NA."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def number(value: float | None, decimals: int | None = None) -> str:
    """Format with about three significant digits, or with the given number of decimals.

    Below 1000 there are at least two decimals.
    """
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
    """Choose the unit for sizes up to `largest` bytes, as (bytes in it, its name); powers of 1000."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= scale:
            return scale, unit
    return 1.0, "B"


def size(count: float | None) -> str:
    """Format bytes as kB, MB or GB (powers of 1000) with four significant digits."""
    if count is None or is_missing(count):
        return DASH
    scale, unit = size_unit(abs(float(count)))
    scaled = float(count) / scale
    if unit == "B":
        return f"{int(scaled)} B"
    return f"{scaled:.{max(0, 3 - len(str(int(abs(scaled)))) + 1)}f} {unit}"


def percent(value: float | None, decimals: int = 0) -> str:
    """Format a number that is already in percent."""
    return DASH if value is None or is_missing(value) else f"{float(value):.{decimals}f}%"


def signed_percent(value: float) -> str:
    """Format a relative difference in percent, with its sign (a true minus)."""
    if abs(value) < 0.05:
        return "0%"
    text = f"{value:+.0f}%" if abs(value) >= 9.95 else f"{value:+.1f}%"
    return text.replace("-", MINUS)


def times(value: float | None) -> str:
    """Format a compression rate as NNCF's tables do."""
    return DASH if value is None or is_missing(value) else f"{float(value):.1f}x"


def printed_unit(unit: str) -> tuple[float, str]:
    """Return the unit in which values are printed, as (its size, its name): divergences in thousandths of a nat.

    The name is empty if `score` prints it with the value, as for sizes and percentages.
    """
    if unit.startswith("nats"):
        return 1e-3, f"1e-3 {unit}"
    return 1.0, "" if unit in ("%", "percent", "bytes") else unit


class HasUnit(Protocol):
    """Anything with a unit, such as a metric."""

    @property
    def unit(self) -> str:
        """The unit, e.g. ``%``."""


def score(value: float | None, stderr: float | None = None, *, name: str = "", metric: HasUnit | None = None) -> str:
    """Format a measured value with ± its standard error, both to the second digit of the error.

    Args:
        value, stderr: the measurement; None if there is none.
        name: the metric's name.
        metric: anything with a unit; percent is appended to the value, and bytes are formatted as a size.
    """
    if value is None or is_missing(value):
        return DASH
    if name == "footprint" or (metric is not None and metric.unit == "bytes"):
        return size(value) if stderr is None or is_missing(stderr) else f"{size(value)} ± {size(stderr)}"
    suffix = "%" if metric is not None and metric.unit in ("%", "percent") else ""
    if stderr is None or is_missing(stderr) or float(stderr) <= 0:
        return number(value) + suffix
    decimals = min(12, max(0, 1 - math.floor(math.log10(float(stderr)))))
    return f"{number(value, decimals)} ± {float(stderr):.{decimals}f}{suffix}"


def markdown_table(header: list[str], rows: list[list[str]], align: str = "") -> str:
    """Format a GitHub table with aligned source columns.

    `align` holds ``l`` or ``r`` for each column; the default is ``l``.
    """
    cells = [[markdown_text(cell).replace("|", "\\|") for cell in row] for row in [header, *rows]]
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
    "[": "{[}",  # after \\ it would begin an argument
    "]": "{]}",
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
    """Escape text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def latex_table(header: list[str], rows: list[list[str]], align: str = "") -> str:
    """Format a ``tabular`` of booktabs; arguments as of `markdown_table`."""
    align = align.ljust(len(header), "l")
    lines = [" & ".join(latex_text(" ".join(cell.split())) for cell in row) + r" \\" for row in [header, *rows]]
    start, end = f"\\begin{{tabular}}{{{align}}}", r"\end{tabular}"
    return "\n".join([start, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", end]) + "\n"


def duration(seconds: float) -> str:
    """Format a duration: ``2.1 s``, ``1:05 min`` or ``2:05 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
