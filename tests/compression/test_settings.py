"""Settings as text."""

from __future__ import annotations

from autotune.common.formatting import DASH
from autotune.compression.describe import describe_algorithms, describe_settings


def test_settings_name_what_matters() -> None:
    """Defaults stay unsaid, everything else is there; short and long form."""
    settings = {
        "mode": "int4_asym",
        "group_size": 64,
        "ratio": 0.8,
        "backup_mode": "none",
        "all_layers": True,
        "awq": True,
    }
    settings |= {"scale_estimation": True, "lora_correction": True, "lora_rank": 32}
    assert describe_settings(settings, short=True) == "int4_asym g64 r0.8 all backup none AWQ+SE+LoRA 32"
    long = "int4_asym, group size 64, ratio 0.8, all layers, backup none, AWQ + SE + LoRA 32"
    assert describe_settings(settings) == long
    assert describe_settings({"mode": "nf4", "group_size": -1, "ratio": 1.0}) == "nf4, per channel"
    assert describe_settings({"mode": "int8_asym"}) == "int8_asym"
    assert describe_settings({"mode": "nvfp4", "group_size": 16, "backup_mode": "int8_asym"}) == "nvfp4"
    assert describe_settings({"mode": "mxfp8_e4m3", "group_size": 32, "backup_mode": "mxfp8_e4m3"}) == "mxfp8_e4m3"
    assert describe_settings({}) == DASH
    assert describe_algorithms({"awq": False, "gptq": None}) == ""
    assert describe_algorithms({"gptq": True, "gptq_act_order": True}) == "GPTQ"
    assert describe_algorithms({"gptq": True, "gptq_act_order": False}) == "GPTQ in channel order"
