"""One model of at most a given size, without a study: what `autotune compress --max-size` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.allocation.allocator import Allocator, Point
    from autotune.common.cache import Cache
    from autotune.config.sections import Calibration
    from autotune.single import Produced, Stage

__all__ = ["compress_to_size"]


def compress_to_size(
    model: str,
    out: Path,
    max_size: int,
    *,
    text: Path,
    calibration: Calibration | None,
    ignored_scope: Sequence[str] = (),
    small: Sequence[str] = (),
    runtime_compressed: bool = True,
    cache: Cache,
    stage: Stage,
    trust_remote_code: bool = False,
) -> Produced:
    """Compress one model into the most accurate one of at most `max_size` bytes.

    Args:
        model: hub id, Hugging Face folder or OpenVINO folder.
        out: a folder that does not exist yet or is empty.
        max_size: of `openvino_model.bin`, in bytes.
        text: on which divergences from the original are measured; another text than the calibration's.
        calibration: texts for GPTQ and output errors; None is plain rounding.
        ignored_scope: weights that are left alone.
        small: ``int2``, ``int3``: formats of fewer than 4 bits that may be used.
        runtime_compressed: only what the CPU keeps compressed when it has loaded the model.
        cache: where exports, statistics, references, variants and errors are kept.
        stage: is told what happens.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UsageError: `out` is not empty.
        ConfigError, PrerequisiteError: the model or a text cannot be had.
        PlanError: no model that small can be made.
    """
    from autotune.allocation.allocator import Allocator
    from autotune.allocation.choices import default_settings, make_menus
    from autotune.allocation.probe import Probe
    from autotune.allocation.texts import FULL, SHORT, texts_of
    from autotune.single import check_empty, open_engine, write_model

    check_empty(out)
    if not text.is_file():
        raise UsageError(f"--text: {text} does not exist; name a UTF-8 text file")
    source, engine = open_engine(
        model, calibration=calibration, cache=cache, stage=stage, trust_remote_code=trust_remote_code
    )
    settings = default_settings(data_aware=calibration is not None, ignored_scope=tuple(ignored_scope), small=small)
    menus = make_menus(engine, settings, runtime_compressed=runtime_compressed)
    menus.check(max_size, engine)
    short, full = (texts_of(text, source, engine, cache, **windows) for windows in (SHORT, FULL))
    weights = {weight.name: weight for weight in engine.weights if weight.name in menus.choices}
    opened: list[Probe] = []

    def probe() -> Probe:
        if not opened:
            opened.append(Probe(engine.model, weights, source.tokenizer(), device="CPU", ov_config={}))
        return opened[0]

    try:
        allocator = Allocator(engine, menus, probe, short=short, full=full, stage=stage)
        point = allocator.best(max_size)
        about = _record(allocator, point, max_size)
    finally:
        for one in opened:
            one.close()
    stage("compressing")
    return write_model(engine, point.plan, source, out, {"allocation": about})


def _record(allocator: Allocator, point: Point, max_size: int) -> Mapping[str, Any]:
    """What `autotune.json` says of how the plan was found."""

    def told(one: Point) -> dict[str, Any]:
        return {
            "footprint": one.plan.footprint,
            "kl_divergence": {"value": one.measured.value, "stderr": one.measured.stderr},
            "predicted": one.predicted,
        }

    uniform = [told(one) for one in allocator.points if one.uniform and one.plan.footprint <= max_size]
    return {
        "max_size": max_size,
        **told(point),
        "uniform": uniform,
        "verified_plans": len(allocator.points),
        "token_forwards": allocator.token_forwards,
    }
