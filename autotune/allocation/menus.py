"""What every weight may become: the variants that a list of uniform settings would give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.compression.engine import Engine
from autotune.compression.plan import Plan
from autotune.compression.settings import INT8_MODES, Settings
from autotune.compression.variants import Variant, layout
from autotune.errors import PlanError

__all__ = ["Choice", "Menus", "default_settings", "make_menus"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a weight may become.

    Attributes:
        variant: None is the weight as it is.
        nbytes: what it adds to `openvino_model.bin`.
    """

    variant: Variant | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Menus:
    """The choices of each weight, and the plans of the uniform settings behind them.

    Attributes:
        choices: by weight name, in the model's order, smallest first; weights without a choice are left out.
        uniform: what each setting gives on its own; the allocation is never worse than these.
    """

    choices: Mapping[str, tuple[Choice, ...]]
    uniform: tuple[Plan, ...]

    def smallest(self, engine: Engine) -> Plan:
        """The plan of the smallest choice of every weight."""
        first = {name: choices[0].variant for name, choices in self.choices.items()}
        return engine.plan_of({name: variant for name, variant in first.items() if variant is not None})

    def check(self, limit: int, engine: Engine) -> None:
        """Refuse a size that no plan of these menus has.

        Raises:
            PlanError: with the smallest size that there is.
        """
        least = self.smallest(engine).footprint
        if least > limit:
            raise PlanError(
                f"the smallest model that the allowed formats give has {least:,} bytes, more than {limit:,}; allow "
                "smaller formats or a larger size"
            )


def default_settings(*, data_aware: bool, ignored_scope: tuple[str, ...] = ()) -> list[Settings]:
    """Formats that the CPU keeps compressed, in the sizes worth having.

    Args:
        data_aware: whether there is a calibration text: then 4-bit weights are quantized with GPTQ.
        ignored_scope: weights that are left alone.
    """
    found = [Settings(mode="int8_asym", ignored_scope=ignored_scope)]
    for mode, group_size in (("int4_asym", 32), ("int4_asym", 64), ("int4_asym", 128), ("int4_sym", 128)):
        found.append(
            Settings(mode=mode, group_size=group_size, all_layers=True, gptq=data_aware, ignored_scope=ignored_scope)
        )
    return found


def make_menus(engine: Engine, settings: Sequence[Settings]) -> Menus:
    """Resolve uniform settings for a model into the choices of each weight.

    Args:
        engine: of the original model.
        settings: uniform ones; `ratio` must be 1 and AWQ off, which ties weights to each other.

    Raises:
        PlanError: a setting cannot be used with this model.
        ValueError: a setting is not uniform.
    """
    for one in settings:
        if one.ratio != 1 or one.awq:
            raise ValueError(f"an allocation chooses weight by weight, so ratio must be 1 and awq off: {one}")
    plans = tuple(engine.plan(one) for one in settings)
    choices = {}
    for weight in engine.weights:
        variants: dict[Variant | None, int] = {}
        for plan in plans:
            variant = plan.variants.get(weight.name)
            variants[variant] = (
                engine.sizes.nbytes(weight)
                if variant is None
                else sum(part.nbytes for part in layout(weight, variant).values())
            )
        if set(variants) != {None}:
            # Where eight bits alone would ruin the model, its own precision is the way out.
            variants[None] = engine.sizes.nbytes(weight)
            ordered = sorted(variants.items(), key=lambda item: item[1])
            choices[weight.name] = tuple(Choice(variant, nbytes) for variant, nbytes in ordered)
    return Menus(choices, tuple(_with_body(engine, one) for one in settings))


def _with_body(engine: Engine, settings: Settings) -> Plan:
    """The uniform competitor that a user would ask for: embeddings and last layer at 8 bits."""
    return engine.plan(settings if settings.mode in INT8_MODES else replace(settings, all_layers=False))
