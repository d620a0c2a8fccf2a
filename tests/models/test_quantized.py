"""Quantized checkpoints of Hugging Face: what is stored is what the OpenVINO model holds, or it is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from builders import constants, distance, logits
from hypothesis import given
from hypothesis import strategies as st
from quantized_checkpoints import KINDS, Stored, as_tensors, gptq_kind, quantize, torch_logits, write_checkpoint

from autotune.common.cache import Cache
from autotune.compression.formats.encoding import unpack
from autotune.compression.formats.table import BITS
from autotune.compression.ir.constants import raw_bytes, type_name
from autotune.compression.ir.sizes import Sizes
from autotune.errors import PrerequisiteError
from autotune.models import source
from autotune.models.checkpoint import check_json
from autotune.models.quantized.checkpoint import Checkpoint
from autotune.models.quantized.methods import packing_of
from autotune.models.source import resolve_model


def constant_of(layer: str, found: Mapping[str, Any]) -> str:
    """The name of a layer's weight in the IR."""
    (name,) = (name for name in found if name.startswith(f"self.{layer}.") and name.endswith("weight"))
    return name


def stored_codes(node: ov.Node) -> Any:
    """The unsigned codes of a constant, flat; those of signed integers are shifted to begin with 0."""
    kind = type_name(node)
    codes = unpack(raw_bytes(node), BITS[kind], int(np.prod(node.get_output_shape(0))))
    return codes ^ np.uint8(1 << (BITS[kind] - 1)) if kind in ("i4", "i8") else codes


def check_kept(model: ov.Model, original: Path, layers: Mapping[str, Stored]) -> None:
    """Codes, scales and zero points are those of the checkpoint, and the logits those of the model it stands for."""
    found = constants(model)
    for layer, stored in layers.items():
        weight = constant_of(layer, found)
        order = np.argsort(stored.g_idx, kind="stable")
        assert np.array_equal(stored_codes(found[weight]).reshape(stored.codes.shape), stored.codes[:, order])
        scales = found[f"{weight}/scale"].data.astype(np.float32)
        scales = scales.reshape(len(stored.codes), -1)
        expected = stored.scales[:, stored.g_idx[order]]  # one for each channel
        assert np.array_equal(np.repeat(scales, stored.codes.shape[1] // scales.shape[1], axis=1), expected)
        if f"{weight}/zero_point" in found:
            assert stored.zeros is not None
            zeros = stored_codes(found[f"{weight}/zero_point"])[: stored.zeros.size]
            assert np.array_equal(zeros.reshape(stored.zeros.shape), stored.zeros)
        elif stored.zeros is not None:
            assert len(np.unique(stored.zeros)) == 1
    tokens = np.random.default_rng(0).integers(0, 320, (2, 12), dtype=np.int64)
    assert distance(torch_logits(original, layers, tokens), logits(model, tokens)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_codes_scales_and_zero_points_stay_what_they_are(
    kind: str, tiny_llama_hf: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every packing; the exporter is replaced by its result on a model of this shape."""
    from safetensors.torch import load_file

    def export(model: str, files: Path, out: Path, *rest: Any) -> None:
        exported = ov.Core().read_model(tiny_llama / "openvino_model.xml")
        found = constants(exported)
        for file in files.glob("*.safetensors"):
            for name, tensor in load_file(file).items():
                if f"self.{name}" in found:
                    old = found[f"self.{name}"]
                    new = ov.opset15.constant(tensor.float().numpy())
                    old.set_friendly_name(f"{name}/old")
                    new.set_friendly_name(f"self.{name}")
                    for target in old.output(0).get_target_inputs():
                        target.replace_source_output(new.output(0))
        ov.save_model(exported, out / "openvino_model.xml", compress_to_fp16=False)

    monkeypatch.setattr(source, "_export_float", export)
    layers = write_checkpoint(tiny_llama_hf, tmp_path / "model", KINDS[kind])
    model = resolve_model(str(tmp_path / "model"), cache=Cache.resolve(tmp_path / "cache")).read()
    check_kept(model, tiny_llama_hf, layers)
    if "activation order" not in kind:  # which adds constants
        original = ov.Core().read_model(tiny_llama / "openvino_model.xml")
        assert Sizes(model).fp32 == Sizes(original).fp32


@pytest.mark.parametrize("kind", ["GPTQ, activation order", "fp8 in blocks"])
def test_the_real_exporter_keeps_them(kind: str, tiny_llama_hf: Path, tmp_path: Path) -> None:
    """It stores constants in 16 bits and under other names; the rest of the model is compressed as any other."""
    from autotune.compression.engine import Engine
    from autotune.compression.settings import Settings

    layers = write_checkpoint(tiny_llama_hf, tmp_path / "model", KINDS[kind], files=2 if "GPTQ" in kind else 1)
    model = resolve_model(str(tmp_path / "model"), cache=Cache.resolve(tmp_path / "cache")).read()
    check_kept(model, tiny_llama_hf, layers)
    engine = Engine(model)
    plan = engine.plan(Settings(mode="int8_asym"))
    assert len(plan.variants) == 2
    assert any(f"{len(layers)} weights of this model are already compressed" in note for note in plan.notes)
    before, after = constants(model), constants(engine.apply(plan))
    for name in layers:
        weight = constant_of(name, before)
        assert np.array_equal(before[weight].data, after[weight].data)


@given(
    bits=st.sampled_from((4, 8)),
    groups=st.sampled_from((1, 2, 4)),
    symmetric=st.booleans(),
    shuffled=st.booleans(),
    less_one=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_layer_reads_as_it_was_meant(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int,
    groups: int,
    symmetric: bool,
    shuffled: bool,
    less_one: bool,
    seed: int,
) -> None:
    """Codes, scales, zero points and values are those that were stored, zero points of 0 included."""
    from quantized_checkpoints import gptq

    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(16, 32)).astype(np.float32)
    weight[:4] = np.abs(weight[:4])  # zero point 0
    g_idx = (np.arange(32) * groups // 32).astype(np.int32)
    stored = quantize(weight, bits, groups, symmetric=symmetric, g_idx=rng.permutation(g_idx) if shuffled else g_idx)
    section = {"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq" if less_one else "gptq_v2"}
    folder = folder_of(
        tmp_path_factory.mktemp("layer"), section, as_tensors(gptq(stored, bits, less_one=less_one), section)
    )
    checkpoint = Checkpoint.open(folder)
    assert checkpoint is not None
    assert checkpoint.layers == ("a",)
    layer = checkpoint.layer("a")
    assert np.array_equal(layer.values, stored.values)
    assert layer.zeros is not None
    assert np.array_equal(layer.zeros, stored.zeros)
    assert np.array_equal(layer.codes, stored.codes[:, np.argsort(stored.g_idx, kind="stable")])
    assert layer.variant.mode == f"int{bits}_{'sym' if (layer.zeros == 1 << (bits - 1)).all() else 'asym'}"


def folder_of(folder: Path, quantization: dict[str, Any] | None, tensors: dict[str, Any]) -> Path:
    """Write a layer named a."""
    from safetensors.torch import save_file

    save_file({f"a.{part}": value for part, value in tensors.items()}, folder / "model.safetensors")
    config = {} if quantization is None else {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_float_model_is_no_quantized_checkpoint(tmp_path: Path) -> None:
    """Nor is one that transformers itself loads as a float model."""
    assert Checkpoint.open(folder_of(tmp_path, None, {})) is None
    assert Checkpoint.open(folder_of(tmp_path, {"quant_method": "mxfp4"}, {})) is None


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        ("qweight", 0, "no safetensors file holds a qweight"),
        ("scales", 0, "layer a is not stored as config.json says .*scales is missing"),
        ("scales", 1, r"layer a is not stored as config.json says .*codes \[16, 32\], scales \[16, 1\], zero points"),
        ("qweight", 3, r"layer a is not stored as config.json says .*codes \[16, 24\]|channels differ in size"),
    ],
)
def test_a_damaged_layer_is_named(tmp_path: Path, part: str, rows: int, message: str) -> None:
    """Tensors that are missing or cut."""
    kind = gptq_kind({"quant_method": "gptq"}, group=16)
    _, arrays = kind.pack(np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32))
    tensors = as_tensors(arrays, kind.section)
    tensors[part] = tensors[part][:rows].clone()
    folder = folder_of(tmp_path, dict(kind.section), {k: v for k, v in tensors.items() if rows or k != part})

    def read() -> None:
        checkpoint = Checkpoint.open(folder)
        assert checkpoint is not None
        checkpoint.layer("a")

    with pytest.raises(PrerequisiteError, match=message):
        read()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bits": ({"quant_method": "gptq", "bits": 3}, "in 3 bits; only 4 and 8 bits can be kept: name the original"),
    "version": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "packed in version 'gemv'"),
    "2:4": ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format marlin-24; only pack-quantized"),
    "fp4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        "type fp4; of its 4-bit types only nf4 can be kept: name the original",
    ),
    "hqq": ({"quant_method": "hqq"}, "by hqq, which OpenVINO has no format for"),
    "new": ({"quant_method": "brand-new"}, "unknown to autotune"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_quantizations_are_refused_before_any_work(kind: str, tiny_llama_hf: Path, tmp_path: Path) -> None:
    """By name, with a remedy; nothing is exported."""
    section, message = REFUSED[kind]
    folder = shutil.copytree(tiny_llama_hf, tmp_path / "model")
    config = check_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    with pytest.raises(PrerequisiteError, match=message):
        resolve_model(str(folder), cache=Cache.resolve(tmp_path / "cache"))
    assert [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == []


def test_mlx_is_known_by_its_own_key() -> None:
    """Its configuration names no method."""
    section = {"group_size": 64, "bits": 4}
    for config in ({"quantization": section}, {"quantization": section, "quantization_config": section}):
        with pytest.raises(PrerequisiteError, match=r"mlx_lm\.convert --hf-path MODEL --mlx-path OUT --dequantize"):
            packing_of(config, Path("config.json"))
