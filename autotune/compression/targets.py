"""Target devices: the formats, group sizes and settings that a device computes from without expanding the weights.

Sources: CPU, the column `runtime_compressed` of the format table; GPU and NPU, OpenVINO's guides "LLM weight
compression" and "OpenVINO GenAI on NPU" (2026). No rule restricts the algorithms that choose scales and codes, because
they do not change how a weight is stored. Adapters of `lora_correction` are stored as int8_asym.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import Problem, Settings
from autotune.errors import CompressionError, PlanError

if TYPE_CHECKING:
    from autotune.compression.ir.layout import Variant
    from autotune.compression.ir.readback import StoredWeight

INTEGERS = ("int8_asym", "int8_sym", "int4_asym", "int4_sym")


@dataclass(frozen=True, slots=True)
class Target:
    """Requirements of a device for compressed models.

    Attributes:
        name: OpenVINO's name of the device.
        modes: formats of a model's weights.
        backup_modes: formats of embeddings, the last layer and weights outside the ratio.
        group_sizes: of formats below 8 bits; None is any.
        uniform: the ratio is 1: no formats mixed by ratio or budget.
        compile_config: properties with which a language model compiles on the device.
    """

    name: str
    modes: tuple[str, ...]
    backup_modes: tuple[str, ...]
    group_sizes: tuple[int, ...] | None = None
    uniform: bool = False
    compile_config: Mapping[str, str] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[str, ...]:
        """All formats that a weight may have."""
        return tuple(dict.fromkeys((*self.modes, *(mode for mode in self.backup_modes if mode in FORMATS))))

    def allowed(self, key: str) -> tuple[Any, ...] | None:
        """Return the values that a setting may have on this device; None is any."""
        adapters = None if "int8_asym" in self.formats else (False,)
        return {
            "mode": self.modes,
            "backup_mode": self.backup_modes,
            "group_size": self.group_sizes,
            "ratio": (1.0,) if self.uniform else None,
            "allocation": ("ratio",) if self.uniform else None,
            "lora_correction": adapters,
        }.get(key)


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            "CPU",
            tuple(name for name, fmt in FORMATS.items() if fmt.runtime_compressed),
            ("none", "int8_asym", "int8_sym"),
        ),
        Target("GPU", INTEGERS, ("none", "int8_asym", "int8_sym")),
        Target(
            "NPU",
            ("int4_sym",),
            ("int8_sym", "none"),
            group_sizes=(128, -1),
            uniform=True,
            compile_config={"NPU_USE_NPUW": "YES", "NPUW_LLM": "YES"},
        ),
    )
}
"""The rules, one row a device."""

RESTRICTED = ("mode", "group_size", "ratio", "backup_mode", "lora_correction", "allocation")
"""The settings that a device may restrict."""


def conflict(key: str, value: Any, targets: Sequence[str]) -> tuple[str, str] | None:
    """Return the first device that does not take a value of a setting, and the values that it takes; None if all do."""
    for name in targets:
        allowed = TARGETS[name].allowed(key)
        if allowed is not None and value not in allowed:
            return name, " or ".join(map(_as_text, allowed))
    return None


def refusal(key: str, value: Any, targets: Sequence[str]) -> str | None:
    """Return why a value of a setting does not fit one of these devices, with values that fit; None if it does."""
    found = conflict(key, value, targets)
    return found and f"{_as_text(value)} does not fit the target {found[0]}, which takes {key} {found[1]}"


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def fitted(settings: Settings, targets: Sequence[str]) -> Settings:
    """Replace the default backup mode if these devices do not take it; a backup mode that was set stays."""
    if settings.backup_mode is not None or settings.mode not in FORMATS or settings.format.bits == 8:
        return settings
    default = settings.effective_backup_mode
    choices = [default, *(mode for name in targets for mode in TARGETS[name].backup_modes)]
    chosen = next((mode for mode in choices if refusal("backup_mode", mode, targets) is None), default)
    return settings if chosen == default else replace(settings, backup_mode=chosen)


def target_problems(settings: Settings, targets: Sequence[str]) -> Iterator[Problem]:
    """Find every setting that one of these devices does not take, whatever the model is."""
    values: dict[str, Any] = {"allocation": settings.allocation}
    if settings.mode in FORMATS:
        values |= {"mode": settings.mode, "lora_correction": settings.lora_correction, "ratio": settings.ratio}
        if settings.format.bits < 8:
            values |= {"group_size": settings.effective_group_size, "backup_mode": settings.effective_backup_mode}
    for key, value in values.items():
        reason = refusal(key, value, targets)
        if reason is not None:
            yield Problem(key, reason)


def check_variants(variants: Mapping[str, Variant], targets: Sequence[str]) -> None:
    """Refuse a plan with a weight that one of these devices does not take.

    Group sizes are adjusted to a model's shapes, so settings that fit a device can give a plan that does not.

    Raises:
        PlanError: names the weight, the device and a remedy.
    """
    for name in targets:
        target = TARGETS[name]
        for weight, variant in variants.items():
            if variant.mode not in target.formats:
                raise PlanError(
                    f"{weight} would be stored as {variant.mode}, and the target {name} takes "
                    f"{', '.join(target.formats)}; leave the weight out with ignored_scope"
                )
            sizes = target.group_sizes
            if variant.format.bits < 8 and sizes is not None and variant.group_size not in sizes:
                raise PlanError(
                    f"{weight} would have groups of {variant.group_size}, and the target {name} takes group_size "
                    f"{' or '.join(map(str, sizes))}; use group_size -1, or leave the weight out with ignored_scope"
                )


def check_stored(stored: Sequence[StoredWeight], targets: Sequence[str]) -> dict[str, int]:
    """Check the constants of a compressed model, as they were read back from its IR, against these devices.

    Returns:
        How many weights are stored in each way, e.g. ``{"int4_sym, group size 128": 28, "int8_sym": 2}``.

    Raises:
        CompressionError: a constant breaks a rule; names it, the device and the rule.
    """
    for name in targets:
        target = TARGETS[name]
        for weight in stored:
            sizes = target.group_sizes if weight.bits < 8 else None
            problem = None
            if weight.mode not in target.formats:
                problem = f"is stored as {weight.describe()}, and the device takes {', '.join(target.formats)}"
            elif sizes is not None and weight.group_size not in sizes:
                problem = f"has groups of {weight.group_size}, and the device takes {' or '.join(map(str, sizes))}"
            if problem is not None:
                raise CompressionError(
                    f"{weight.name} {problem}: the model does not fit the target {name}. Compress the original with "
                    f"`--target {name}`"
                )
    counts: dict[str, int] = {}
    for weight in stored:
        counts[weight.describe()] = counts.get(weight.describe(), 0) + 1
    return counts
