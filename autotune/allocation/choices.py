"""Choices of each weight: the variants that a list of uniform settings would give it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.compression.engine import Engine
from autotune.compression.ir.layout import Variant, layout
from autotune.compression.ir.weights import Weight
from autotune.compression.plan import Plan
from autotune.compression.settings import INT8_MODES, Settings
from autotune.errors import PlanError

GRIDS = (("int4_asym", 32), ("int4_asym", 64), ("int4_asym", 128), ("int4_sym", 128))
"""Formats and group sizes worth choosing from."""

SMALL_GRIDS = {"int2": (("int2_sym", 32), ("int2_sym", 64)), "int3": (("int3_sym", 64), ("int3_sym", 128))}
"""Optional formats, useful only below the sizes that 4 bits reach."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Choice of a variant for a weight.

    Attributes:
        variant: None leaves the weight uncompressed.
        nbytes: its bytes in the weight file.
    """

    variant: Variant | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Menus:
    """The choices of each weight, and the plans of the uniform settings that they come from.

    Attributes:
        choices: by weight name, in the model's order, smallest first; weights without a choice are left out.
        uniform: what each setting gives on its own; the allocation is never worse than these.
    """

    choices: Mapping[str, tuple[Choice, ...]]
    uniform: tuple[Plan, ...]

    def smallest(self, engine: Engine) -> Plan:
        """Make the plan of the smallest choice of every weight."""
        first = {name: choices[0].variant for name, choices in self.choices.items()}
        return engine.plan_of({name: variant for name, variant in first.items() if variant is not None})

    def check(self, limit: int, engine: Engine) -> None:
        """Refuse a size below the smallest plan of these menus.

        Raises:
            PlanError: with the smallest size that there is.
        """
        least = self.smallest(engine).footprint
        if least > limit:
            raise PlanError(
                f"the smallest model with the allowed formats has {least:,} bytes, more than {limit:,}; allow "
                "smaller formats or a larger size"
            )


def default_settings(
    *, data_aware: bool, ignored_scope: tuple[str, ...] = (), small: Sequence[str] = ()
) -> list[Settings]:
    """List the default settings: 8 and 4 bits in useful group sizes.

    Args:
        data_aware: whether there is a calibration text: then weights of less than 8 bits are quantized with GPTQ, on
            scales that are searched for the least error.
        ignored_scope: weights that are left alone.
        small: ``int2``, ``int3`` or both: formats of fewer bits that may be used as well.
    """
    grids = [*GRIDS, *(grid for name in small for grid in SMALL_GRIDS[name])]
    four_bit = Settings(
        all_layers=True, gptq=data_aware, scale_estimation=data_aware, ignored_scope=ignored_scope, mode="int4_asym"
    )
    return [
        Settings(mode="int8_asym", ignored_scope=ignored_scope),
        *(replace(four_bit, mode=mode, group_size=group_size) for mode, group_size in grids),
    ]


def make_menus(engine: Engine, settings: Sequence[Settings], *, runtime_compressed: bool = True) -> Menus:
    """Resolve uniform settings for a model into the choices of each weight.

    A weight that several operations use (tied, or fused from several) is one weight and has one menu. Weights that
    share an AWQ scale would have to move together; AWQ is refused here, so that none has to.

    Args:
        engine: of the original model.
        settings: uniform ones; `ratio` must be 1 and AWQ off, which ties weights to each other. Adapters are refused
            as well: what they win back is not in the errors that are compared.
        runtime_compressed: leave out what the device would expand when it loads the model; it saves disk space only.

    Raises:
        PlanError: a setting cannot be used with this model.
        ValueError: a setting is not uniform.
    """
    for one in settings:
        if one.ratio != 1 or one.awq or one.lora_correction:
            raise ValueError(f"an allocation chooses weight by weight, so ratio must be 1 and awq off: {one}")
    plans = tuple(engine.plan(one) for one in settings)
    choices = {}
    for weight in engine.weights:
        if any(use.kind == "convolution" for use in weight.uses):
            continue  # small, always expanded, and no input of a model that the CPU plugin could take
        variants: dict[Variant | None, int] = {}
        for plan in plans:
            variant = plan.variants.get(weight.name)
            if variant is not None:
                variant = _best_rounding(weight, variant)
            if runtime_compressed and variant is not None and not kept_compressed(weight, variant):
                continue
            variants[variant] = (
                engine.sizes.nbytes(weight)
                if variant is None
                else sum(part.nbytes for part in layout(weight, variant).values())
            )
        if set(variants) - {None}:
            # Where eight bits alone would ruin the model, its own precision is the way out.
            variants[None] = engine.sizes.nbytes(weight)
            ordered = sorted(variants.items(), key=lambda item: item[1])
            choices[weight.name] = tuple(Choice(variant, nbytes) for variant, nbytes in ordered)
    uniform = (_with_body(engine, one, choices) for one in settings)
    return Menus(choices, tuple(plan for plan in uniform if _from_menus(plan, choices)))


def _best_rounding(weight: Weight, variant: Variant) -> Variant:
    """Add scale estimation to lookup tables, which have no activations: it minimises the squared error."""
    rounded = not variant.looks_at_activations and variant.format.takes_algorithms and variant.format.bits < 8
    return replace(variant, scale_estimation=True) if rounded and not weight.activations else variant


def kept_compressed(weight: Weight, variant: Variant) -> bool:
    """Test if the CPU computes with the packed weight in all its uses."""
    return all(use.operation in variant.format.runtime_compressed for use in weight.uses)


def _from_menus(plan: Plan, choices: Mapping[str, tuple[Choice, ...]]) -> bool:
    """Test if every variant of a plan is on its weight's menu, so that its cost can be predicted."""
    return all(any(choice.variant == plan.variants.get(name) for choice in menu) for name, menu in choices.items())


def _with_body(engine: Engine, settings: Settings, names: Container[str]) -> Plan:
    """Make the usual uniform plan of these weights for comparison: embeddings and last layer at 8 bits."""
    plan = engine.plan(settings if settings.mode in INT8_MODES else replace(settings, all_layers=False))
    variants = {name: variant for name, variant in plan.variants.items() if name in names}
    return plan if len(variants) == len(plan.variants) else engine.plan_of(variants, notes=plan.notes)
