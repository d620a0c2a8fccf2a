"""The peers' calls exist and mean the same."""

from __future__ import annotations

import argparse
import importlib
import inspect
import shlex
import warnings
from typing import Any

import pytest

from autotune.compression.settings import Settings
from autotune.reporting.text.commands import nncf_call, optimum_command

SHARED = [
    Settings(mode="int8_asym"),
    Settings(mode="int8_sym"),
    Settings(mode="int4_asym", group_size=64),
    Settings(mode="int4_sym", group_size=-1, ratio=0.8, sensitivity_metric="max_activation_variance"),
    Settings(mode="nf4", group_size=32, awq=True, scale_estimation=True, gptq=True, all_layers=True),
    Settings(mode="int4_asym", lora_correction=True, backup_mode="none"),
]


@pytest.mark.parametrize("settings", SHARED, ids=str)
def test_nncf_takes_the_call(settings: Settings) -> None:
    """Every name in it exists, and the signature takes the arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = pytest.importorskip("nncf")
        importlib.import_module("nncf.quantization.advanced_parameters")

    signature = inspect.signature(nncf.compress_weights)
    arguments: list[Any] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(nncf, name)

        def compress_weights(self, *given: Any, **named: Any) -> None:
            arguments.append(signature.bind(*given, **named).arguments)

    call = nncf_call(settings.as_dict()).call
    assert call is not None
    eval(call, {"nncf": Recorder(), "model": None, "dataset": None})
    (bound,) = arguments
    assert bound["mode"].name.lower() == settings.mode
    if not settings.mode.startswith("int8"):
        assert bound["group_size"] == settings.effective_group_size
        assert bound["ratio"] == settings.ratio
        assert bound.get("gptq", False) == settings.gptq
        assert ("dataset" in bound) == settings.needs_calibration


@pytest.mark.parametrize("settings", SHARED, ids=str)
def test_optimum_cli_takes_the_command(settings: Settings) -> None:
    """Its own parser reads every option."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openvino = pytest.importorskip("optimum.commands.export.openvino")
    parser = argparse.ArgumentParser()
    openvino.parse_args_openvino(parser)
    command = optimum_command("org/model", settings.as_dict()).call
    assert command is not None
    words = shlex.split(command)
    assert words[:3] == ["optimum-cli", "export", "openvino"]
    parsed = parser.parse_args(words[3:])
    assert parsed.model == "org/model"
    assert bool(parsed.sym) == settings.mode.endswith("_sym")
    assert bool(parsed.gptq) == settings.gptq


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "mxfp4"}, "stores mxfp4"),
        ({"mode": "int4_sym", "ratio": 0.0}, "ratio 0 as 1"),
        ({"mode": "int4_sym", "ratio": 0.5, "sensitivity_metric": "output_error"}, "output_error"),
        ({"budget": 3.5}, "one by one"),
    ],
)
def test_where_there_is_none_the_reason_is_said(settings: dict[str, Any], message: str) -> None:
    """No call, but why not."""
    for found in (nncf_call(settings), optimum_command("m", settings)):
        assert found.call is None
        assert message in found.note
