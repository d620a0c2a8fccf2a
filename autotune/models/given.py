"""Compressed models that another tool has written, as plans: their formats and sizes are read back from the IR."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.layout import Variant
from autotune.compression.ir.readback import read_weights
from autotune.compression.plan import Plan
from autotune.compression.targets import check_stored
from autotune.models.companions import ir_files
from autotune.models.source import SourceModel, resolve_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.common.cache import Cache
    from autotune.compression.engine import Engine


@dataclass(frozen=True)
class GivenPlan(Plan):
    """The plan of a model that exists already; it is read instead of built.

    Attributes:
        source: the model.
    """

    source: SourceModel | None = field(default=None, kw_only=True)

    @cached_property
    def key(self) -> str:
        """Hash of the model's files."""
        assert self.source is not None
        return self.source.fingerprint[:16]


def read_given(
    model: str,
    engine: Engine,
    targets: Sequence[str],
    cache: Cache,
    *,
    trust_remote_code: bool = False,
    task: str | None = None,
) -> GivenPlan:
    """Describe a compressed model as a plan.

    Args:
        model: its folder or hub id.
        engine: of the original, whose weights the percentages count.
        targets: devices whose rules the model must keep.
        cache: keeps its export if it is no OpenVINO model.
        trust_remote_code: whether code that comes with it may run.
        task: that of the original.

    Raises:
        ConfigError, PrerequisiteError: it cannot be read.
        CompressionError: a constant breaks a rule of a device.
    """
    source = resolve_model(model, cache=cache, trust_remote_code=trust_remote_code, task=task)
    assert source.path is not None
    stored = read_weights(source.read())
    check_stored(stored, targets)
    elements = max(sum(weight.size for weight in engine.weights), sum(weight.size for weight in stored), 1)
    rest = elements - sum(weight.size for weight in stored)
    bits = 8 * sum(weight.nbytes for weight in stored) + rest * engine.original_bits_per_weight()
    footprint = sum(file.stat().st_size for file in ir_files(source.path) if file.suffix == ".bin")
    modes: dict[str, int] = {}
    for weight in stored:
        modes[weight.describe()] = modes.get(weight.describe(), 0) + 1
    formats = ", ".join(f"{count} weights in {name}" for name, count in modes.items()) or "no compressed weights"
    return GivenPlan(
        variants={w.name: Variant(w.mode, w.group_size) for w in stored if w.mode in FORMATS and w.mode != "codebook"},
        awq={},
        notes=(f"{source.name}, not compressed by autotune: {formats}",),
        footprint=footprint,
        bits_per_weight=bits / elements,
        compression_rate=engine.sizes.fp32 / footprint,
        int4_percent=100 * sum(weight.size for weight in stored if weight.bits <= 4) / elements,
        int8_percent=100 * sum(weight.size for weight in stored if weight.bits == 8) / elements,
        expanded_percent=0.0,
        source=source,
    )
