"""Parsers of quantities: ``'1.2 GB'``, ``'2h'``, ``'<= 5%'``.

Every parser takes text, or a plain number if its unit is unambiguous. The message of its ValueError contains the value
and the allowed forms.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from reprlib import Repr
from typing import Any, Literal

_REPR = Repr()
_REPR.maxstring = 60
brief = _REPR.repr
"""Format a value for an error message, cut short."""

BYTE_UNITS = {
    "": 1,
    "b": 1,
    "byte": 1,
    "bytes": 1,
    **{f"{prefix}{end}": 1000**power for power, prefix in enumerate("kmgt", 1) for end in ("", "b")},
    **{f"{prefix}i{end}": 1024**power for power, prefix in enumerate("kmgt", 1) for end in ("", "b")},
}
DURATION_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
DURATION_PART = re.compile(rf"({NUMBER})\s*([a-z]+)\s*")


def parse_bytes(value: Any) -> int:
    """Parse a number of bytes: ``'1.2 GB'``, ``'13.8MB'``, ``'512 MiB'`` or a whole number.

    kB, MB, GB, TB are powers of 1000, as disks and model hubs count; KiB, MiB, GiB, TiB are powers of 1024.
    Case does not matter. A fraction of a byte is rounded to the nearest byte.

    Raises:
        ValueError: not a size, an unknown unit, or a fraction without a unit.
    """
    allowed = "a size such as '1.2 GB', '500 MB' or '512 MiB', or a whole number of bytes"
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"must not be negative, got {value}")
        return value
    match = re.fullmatch(rf"({NUMBER})\s*([a-z]*)", str(value).strip().lower())
    if match is None or isinstance(value, bool):
        raise ValueError(f"must be {allowed}, got {brief(value)}")
    number, unit = match.groups()
    if unit not in BYTE_UNITS:
        raise ValueError(f"has the unknown unit {unit!r} in {value!r}; must be {allowed}")
    if unit == "" and Decimal(number) % 1:
        raise ValueError(f"needs a unit, got {brief(value)}; must be {allowed}")
    return int((Decimal(number) * BYTE_UNITS[unit]).to_integral_value())


def parse_duration(value: Any) -> float:
    """Parse seconds above zero: ``'2h'``, ``'90s'``, ``'1h 30m'``, ``'15 min'`` or a number of seconds.

    Raises:
        ValueError: not a duration, an unknown unit, zero or negative.
    """
    allowed = "a duration such as '2h', '90s' or '1h 30m', or a number of seconds"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip().lower()
        parts = DURATION_PART.findall(text)
        if not parts or DURATION_PART.sub("", text) or isinstance(value, bool):
            raise ValueError(f"must be {allowed}, got {brief(value)}")
        for _, unit in parts:
            if unit not in DURATION_UNITS:
                raise ValueError(f"has the unknown unit {unit!r} in {value!r}; must be {allowed}")
        seconds = float(sum(Decimal(number) * DURATION_UNITS[unit] for number, unit in parts))
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"must be more than zero, got {brief(value)}")
    return seconds


@dataclass(frozen=True, slots=True)
class Precision:
    """A limit on a standard error.

    Attributes:
        value: the limit: a share of the score if `relative`, else in the score's unit.
        relative: see `value`.
    """

    value: float
    relative: bool

    def is_met(self, value: float, stderr: float | None) -> bool:
        """Test if a score with this standard error has the precision."""
        return stderr is not None and stderr <= self.value * (abs(value) if self.relative else 1.0)


def parse_precision(value: Any) -> Precision:
    """Parse a precision above zero: ``'3%'`` of a score, or a number in its unit.

    Raises:
        ValueError: not a number, zero or negative.
    """
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) if not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(
            f"must be a share such as '3%', or a number above zero in the score's unit, got {brief(value)}"
        )
    return Precision(number / 100, True) if text.endswith("%") else Precision(number, False)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit on a metric.

    Attributes:
        op: ``"<="`` or ``">="``.
        value: the limit in the metric's own unit: bytes for footprint, percent (5.0 is 5 %) for percentages.
        text: as the user wrote it, spaces normalised.
    """

    op: Literal["<=", ">="]
    value: float
    text: str

    def violation(self, value: float) -> float:
        """Return how far `value` is beyond the limit, in the metric's unit; zero or negative if it is within."""
        return value - self.value if self.op == "<=" else self.value - value

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a study's storage: op, value, text."""
        return {"op": self.op, "value": self.value, "text": self.text}


def parse_constraint(text: Any, *, unit: str | None = None, share: bool = False) -> Constraint:
    """Parse a limit, ``'<= 5%'``, ``'>= 0.9'`` or ``'<= 1.2 GB'``, in the unit of its metric.

    Args:
        text: an operator and a quantity.
        unit: ``"bytes"`` reads a size; ``"%"`` requires the percent sign, because 0.05 and 5 are easily confused;
            anything else reads a plain number; None checks the form alone.
        share: the metric is a share of 1 (a similarity), so that ``90%`` also means 0.9.

    Raises:
        ValueError: no ``<=`` or ``>=``, not a quantity, or one that does not fit the unit.
    """
    examples = {"bytes": "'<= 1.2 GB'", "%": "'<= 5%'"}.get(unit or "", "'<= 0.01' or '>= 0.9'")
    match = re.fullmatch(r"(<=|>=)\s*(.+)", text.strip(), flags=re.DOTALL) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"must be a limit such as {examples} (with <= or >=), got {brief(text)}")
    op: Literal["<=", ">="] = "<=" if match[1] == "<=" else ">="
    quantity = re.sub(r"\s+", " ", match[2].strip())
    normalised = f"{op} {quantity}"
    if unit == "bytes":
        return Constraint(op, float(parse_bytes(quantity)), normalised)
    percent = quantity.endswith("%")
    try:
        value = float(quantity.removesuffix("%"))
    except ValueError:
        if unit is None:
            value = float(parse_bytes(quantity))
        else:
            raise ValueError(f"must be a limit such as {examples}, got {brief(text)}") from None
    if not math.isfinite(value):
        raise ValueError(f"must be a finite limit such as {examples}, got {brief(text)}")
    if unit == "%" and not percent:
        raise ValueError(f"is a percentage and needs the % sign, e.g. '{op} {value:g}%', got {brief(text)}")
    if unit not in (None, "%") and percent:
        if not share:
            raise ValueError(
                f"is not a percentage{f' but in {unit}' if unit else ''}, got {brief(text)}; write {examples}"
            )
        return Constraint(op, float(Decimal(quantity.removesuffix("%").strip()) / 100), normalised)
    return Constraint(op, value, normalised)
