"""NNCF, run as its users run it: the same settings, the same calibration windows, its own defaults for the rest."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from autotune.compression.calibration.segments import text_inputs
from autotune.compression.settings import ALGORITHMS, OUTPUT_ERROR, Settings

__all__ = ["nncf_compress"]


def nncf_compress(
    model: ov.Model, settings: Settings, windows: np.ndarray, *, statistics: Path | None = None
) -> ov.Model | None:
    """The model compressed by `nncf.compress_weights`, None where NNCF refuses; the given model is not changed.

    Args:
        model: the original.
        settings: what autotune is asked for; a metric that NNCF does not have becomes NNCF's default.
        windows: int64 [n, T], calibration tokens, all of them used.
        statistics: NNCF's own cache of statistics, where it can use one.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode(settings.mode)}
    if not settings.mode.startswith("int8"):
        options |= {"ratio": settings.ratio, "all_layers": settings.all_layers}
        if settings.group_size is not None:
            options["group_size"] = settings.group_size
        if settings.backup_mode is not None:
            options["backup_mode"] = nncf.BackupMode(settings.backup_mode)
    metric = settings.sensitivity_metric
    if settings.ratio < 1 and metric not in (None, OUTPUT_ERROR):
        options["sensitivity_metric"] = nncf.SensitivityMetric(metric)
    algorithms = {name: True for name in ALGORITHMS if getattr(settings, name)}
    options |= algorithms
    if settings.needs_calibration or settings.format.learns_levels:  # NNCF's own table needs data
        names = {port.get_any_name() for port in model.inputs}
        texts = [{n: v for n, v in text_inputs(row[None]).items() if n in names} for row in windows]
        options["dataset"] = nncf.Dataset(texts)
        options["subset_size"] = len(windows)
    if statistics is not None:
        options["advanced_parameters"] = nncf.AdvancedCompressionParameters(statistics_path=str(statistics))
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        try:
            return nncf.compress_weights(model.clone(), **options)
        except nncf.ParameterNotSupportedError:
            return None
