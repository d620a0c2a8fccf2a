"""Target devices: what their rules refuse, and what is read back from an IR."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import openvino as ov
import pytest
from builders import chain, language_chain, normal

from autotune.compression.engine import Engine
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.readback import read_weights
from autotune.compression.settings import Settings
from autotune.compression.targets import TARGETS, check_stored
from autotune.config.space.parse import SpaceReader
from autotune.config.space.restrict import restrict
from autotune.errors import CompressionError, PlanError


def model(columns: int = 256) -> ov.Model:
    """Embedding, three layers and a last one, with rows of that many channels."""
    square = [normal(columns, columns, seed=seed) for seed in (1, 2, 3)]
    return language_chain(square, normal(64, columns, seed=4))


@pytest.mark.parametrize("storage", ["f32", "f16"])
def test_every_format_is_read_back_as_it_was_planned(storage: str, tmp_path: Path) -> None:
    """From the saved IR: mode and groups of each weight; a codebook is known as such."""
    engine = Engine(chain([normal(64, 128), normal(32, 64)], storage=storage))
    for mode, group_size in product(FORMATS, (32, -1)):
        table = (-1.0, 0.0, 1.0) if mode == "codebook" else ()
        group = None if FORMATS[mode].fixed_group_size else group_size
        plan = engine.plan(
            Settings(mode=mode, group_size=group, codebook=table, all_layers=not mode.startswith("int8"))
        )
        path = tmp_path / f"{mode}{group_size}.xml"
        ov.save_model(engine.apply(plan), path, compress_to_fp16=False)
        found = {weight.name: weight for weight in read_weights(ov.Core().read_model(path))}
        tables = FORMATS[mode].table_storage
        expected = [("codebook", -1)] if tables else [(v.mode, v.group_size) for v in plan.variants.values()]
        assert {(weight.mode, weight.group_size) for weight in found.values()} == set(expected), mode
        if not tables:
            assert list(found) == list(plan.variants)


@pytest.mark.parametrize("name", TARGETS)
def test_a_plan_is_refused_by_name_or_its_constants_keep_the_rules(name: str) -> None:
    """For every format, group size, backup and ratio: either a PlanError that names the setting, or an IR that fits."""
    free, bound = Engine(model()), Engine(model(), targets=[name])
    values = product(FORMATS, (64, 128, -1), (None, "int8_asym", "int8_sym"), (1.0, 0.5))
    outcomes = set()
    for mode, group_size, backup, ratio in values:
        if mode in ("codebook", "int8_asym", "int8_sym") and (group_size, backup, ratio) != (-1, None, 1.0):
            continue
        fixed = FORMATS[mode].fixed_group_size
        settings = Settings(
            mode=mode,
            group_size=None if fixed else group_size,
            backup_mode=backup,
            ratio=ratio,
            codebook=(-1.0, 1.0) if mode == "codebook" else (),
        )
        try:
            plan = bound.plan(settings)
        except PlanError as error:
            key, _, message = str(error).partition(": ")
            assert key in ("mode", "group_size", "backup_mode", "ratio")
            assert f"target {name}" in message
            outcomes.add(key)
            if backup is not None:  # what is refused would not pass the check of the IR either, but for the ratio
                stored = read_weights(free.apply(free.plan(settings)))
                if key != "ratio":
                    with pytest.raises(CompressionError, match=f"target {name}"):
                        check_stored(stored, [name])
            continue
        outcomes.add("fits")
        assert sum(check_stored(read_weights(bound.apply(plan)), [name]).values()) == len(plan.variants)
    assert outcomes == {"NPU": {"fits", "mode", "group_size", "ratio", "backup_mode"}}.get(name, {"fits", "mode"})


def test_the_default_backup_fits_and_an_adjusted_group_is_refused_with_its_weight() -> None:
    """NPU: int8_sym without being asked; rows of 192 channels have no groups of 128, and channel-wise is the remedy."""
    plan = Engine(model(), targets=["NPU"]).plan(Settings(mode="int4_sym"))
    assert {variant.mode for variant in plan.variants.values()} == {"int4_sym", "int8_sym"}
    narrow = Engine(model(192), targets=["NPU"])
    with pytest.raises(PlanError, match=r"W0 would have groups of 64.*group_size -1"):
        narrow.plan(Settings(mode="int4_sym"))
    assert check_stored(read_weights(narrow.apply(narrow.plan(Settings(mode="int4_sym", group_size=-1)))), ["NPU"])
    with pytest.raises(PlanError, match="lora_correction: true does not fit the target NPU"):
        narrow.plan(Settings(mode="int4_sym", lora_correction=True))


def test_a_space_keeps_what_all_devices_take_and_says_what_falls_away() -> None:
    """Every value that was dropped is named with the device; the restriction is idempotent; the order of keys stays."""
    data = {"allocation": ["budget", "ratio"], "mode": ["int8_asym", "int4_sym"], "group_size": [64, 128, -1]}
    data |= {"ratio": {"low": 0.6, "high": 1.0}, "lora_correction": [False, True], "lora_rank": 4}
    space = SpaceReader(data, Path()).space("inline")
    found = restrict(space, ["CPU", "NPU"])
    assert {name: parameter.as_data() for name, parameter in found.parameters.items()} == {
        "mode": "int4_sym",
        "group_size": [128, -1],
        "ratio": 1.0,
        "backup_mode": "int8_sym",
        "lora_correction": False,
        "lora_rank": 4,
    }
    dropped = [
        "mode int8_asym: NPU",
        "group_size 64: NPU",
        "ratio 0.6: NPU",
        "lora_correction True",
        "allocation budget",
    ]
    assert all(any(line.startswith(each) for line in found.left_out) for each in dropped)
    assert restrict(found, ["NPU", "CPU"]) == found
    assert restrict(space, ["CPU", "GPU"]) == restrict(space, []) == space
