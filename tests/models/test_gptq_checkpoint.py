"""GPTQ checkpoints of Hugging Face, made here by plain rounding: what is stored is what the OpenVINO model holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.common.cache import Cache
from autotune.errors import PrerequisiteError
from autotune.models.gptq_checkpoint import Checkpoint
from autotune.models.source import resolve_model

Codes = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class Stored(NamedTuple):
    """Content of a layer of a checkpoint: codes [N, K], scales and zero points [N, G], the group of each channel."""

    codes: Codes
    scales: npt.NDArray[np.float16]
    zeros: Codes
    g_idx: npt.NDArray[np.int32]

    @property
    def values(self) -> FloatArray:
        levels = self.codes.astype(np.float32) - self.zeros[:, self.g_idx]
        return levels * self.scales.astype(np.float32)[:, self.g_idx]


def quantize(weight: FloatArray, bits: int, groups: int, *, symmetric: bool, g_idx: npt.NDArray[np.int32]) -> Stored:
    """Round each group of channels to the codes of its range."""
    codes = np.empty(weight.shape, np.uint8)
    scales = np.empty((len(weight), groups), np.float16)
    zeros = np.empty((len(weight), groups), np.uint8)
    top = (1 << bits) - 1
    for group in range(groups):
        part = weight[:, g_idx == group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            high = np.maximum(high, -low)
            low = -high
        scale = np.maximum((high - low) / top, 1e-4).astype(np.float16)
        zero = np.full(len(weight), (top + 1) // 2) if symmetric else np.clip(np.rint(-low / scale), 0, top)
        scales[:, group], zeros[:, group] = scale, zero
        codes[:, g_idx == group] = np.clip(np.rint(part / scale[:, None] + zero[:, None]), 0, top)
    return Stored(codes, scales, zeros, g_idx)


def packed_words(values: Codes, bits: int) -> npt.NDArray[np.int32]:
    """Pack along the first axis, first value lowest."""
    each = 32 // bits
    words = np.zeros((len(values) // each, values.shape[1]), np.uint32)
    for i in range(each):
        words |= values[i::each].astype(np.uint32) << np.uint32(bits * i)
    return words.view(np.int32)


def tensors_of(stored: Stored, bits: int, *, less_one: bool) -> dict[str, Any]:
    import torch

    zeros = (stored.zeros - np.uint8(less_one)) & np.uint8((1 << bits) - 1)
    arrays = {
        "qweight": packed_words(np.ascontiguousarray(stored.codes.T), bits),
        "qzeros": packed_words(np.ascontiguousarray(zeros), bits).T,
        "scales": stored.scales.T,
        "g_idx": stored.g_idx,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def write_checkpoint(
    source: Path,
    out: Path,
    *,
    bits: int = 4,
    group_size: int = 32,
    symmetric: bool = False,
    act_order: bool = False,
    checkpoint_format: str | None = None,
    files: int = 1,
) -> dict[str, Stored]:
    """Quantize the layers of a float Llama into a GPTQ checkpoint; the embedding and the head stay float16."""
    from safetensors.torch import load_file, save_file

    out.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(source / name, out / name)
    config = json.loads((source / "config.json").read_text())
    quantization = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": symmetric}
    quantization |= {"desc_act": act_order} | ({"checkpoint_format": checkpoint_format} if checkpoint_format else {})
    config |= {"quantization_config": quantization, "dtype": "float16"}
    (out / "config.json").write_text(json.dumps(config))
    layers: dict[str, Stored] = {}
    tensors: dict[str, Any] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = tensor.half()
            continue
        columns = tensor.shape[1]
        groups = 1 if group_size == -1 else columns // group_size
        g_idx = np.arange(columns, dtype=np.int32) * groups // columns
        if act_order:
            g_idx = np.random.default_rng(columns).permutation(g_idx)  # the same for all weights of one width
        layer = name.removesuffix(".weight")
        layers[layer] = quantize(tensor.numpy(), bits, groups, symmetric=symmetric, g_idx=g_idx)
        parts = tensors_of(layers[layer], bits, less_one=checkpoint_format != "gptq_v2")
        tensors |= {f"{layer}.{part}": value for part, value in parts.items()}
    names = sorted(tensors)
    for number in range(files):
        save_file({name: tensors[name] for name in names[number::files]}, out / f"part-{number}.safetensors")
    return layers


def torch_logits(source: Path, layers: dict[str, Stored], tokens: npt.NDArray[np.int64]) -> FloatArray:
    """Logits of the float model whose weights are what the checkpoint stands for, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    state = {name: value.half().float() for name, value in model.state_dict().items()}
    state |= {f"{name}.weight": torch.from_numpy(stored.values) for name, stored in layers.items()}
    model.load_state_dict(state)
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(tokens)).logits.numpy(), np.float32)


def constant_of(layer: str, constants: Mapping[str, Any]) -> str:
    """The name of a layer's weight in the IR."""
    (found,) = (name for name in constants if name.startswith(f"self.{layer}.") and name.endswith("weight"))
    return found


CASES = {
    "4 bits, zero points less one": {},
    "4 bits, activation order, two files": {"act_order": True, "files": 2},
    "4 bits, symmetric, one group a row": {"symmetric": True, "group_size": -1, "checkpoint_format": "gptq"},
    "8 bits, zero points as they are": {"bits": 8, "checkpoint_format": "gptq_v2"},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_integers_scales_and_zero_points_stay_what_they_are(
    options: dict[str, Any], tiny_llama_hf: Path, tmp_path: Path
) -> None:
    """The constants of the IR are those of the checkpoint, and the logits those of the model it stands for."""
    from builders import constants, decoded, distance, logits

    from autotune.compression.ir.constants import raw_bytes, type_name

    layers = write_checkpoint(tiny_llama_hf, tmp_path / "gptq", **options)
    model = resolve_model(str(tmp_path / "gptq"), cache=Cache.resolve(tmp_path / "cache")).read()
    found = constants(model)
    bits, symmetric = options.get("bits", 4), options.get("symmetric", False)
    for name, stored in layers.items():
        weight = constant_of(name, found)
        order = np.argsort(stored.g_idx, kind="stable")
        data = raw_bytes(found[weight])
        codes = data if bits == 8 else np.stack([data & 15, data >> 4], axis=-1).reshape(-1)
        middle = (1 << (bits - 1)) if symmetric else 0
        assert np.array_equal(codes.reshape(stored.codes.shape) ^ middle, stored.codes[:, order])
        assert type_name(found[weight]) == f"{'i' if symmetric else 'u'}{bits}"
        assert np.array_equal(found[f"{weight}/scale"].data.reshape(stored.scales.shape), stored.scales)
        if not symmetric:
            zeros = raw_bytes(found[f"{weight}/zero_point"])
            zeros = zeros if bits == 8 else np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(-1)
            assert np.array_equal(zeros[: stored.zeros.size].reshape(stored.zeros.shape), stored.zeros)
        assert np.allclose(decoded(model, weight).reshape(stored.codes.shape), stored.values[:, order], rtol=1e-3)
    tokens = np.random.default_rng(0).integers(0, 320, (2, 12), dtype=np.int64)
    assert distance(torch_logits(tiny_llama_hf, layers, tokens), logits(model, tokens)) < 2e-3


def test_what_the_checkpoint_left_in_float_is_compressed(tiny_llama_hf: Path, tmp_path: Path) -> None:
    """Embedding and head are weights like any others; the plan says that the rest stays as it is."""
    from autotune.compression.engine import Engine
    from autotune.compression.settings import Settings

    layers = write_checkpoint(tiny_llama_hf, tmp_path / "gptq", act_order=True)
    model = resolve_model(str(tmp_path / "gptq"), cache=Cache.resolve(tmp_path / "cache")).read()
    engine = Engine(model)
    plan = engine.plan(Settings(mode="int8_asym"))
    assert len(plan.variants) == 2
    assert any(f"{len(layers)} weights of this model are already compressed" in note for note in plan.notes)
    before, after = (
        {n.get_friendly_name(): n for n in m.get_ordered_ops() if n.get_type_name() == "Constant"}
        for m in (model, engine.apply(plan))
    )
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
    from safetensors.torch import save_file

    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(16, 32)).astype(np.float32)
    weight[:4] = np.abs(weight[:4])  # zero point 0
    g_idx = (np.arange(32) * groups // 32).astype(np.int32)
    stored = quantize(weight, bits, groups, symmetric=symmetric, g_idx=rng.permutation(g_idx) if shuffled else g_idx)
    folder = tmp_path_factory.mktemp("layer")
    save_file(
        {f"a.{part}": value for part, value in tensors_of(stored, bits, less_one=less_one).items()},
        folder / "model.safetensors",
    )
    quantization = {"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq" if less_one else "gptq_v2"}
    (folder / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    checkpoint = Checkpoint.open(folder)
    assert checkpoint is not None
    assert checkpoint.layers == ("a",)
    layer = checkpoint.layer("a")
    assert np.array_equal(layer.values, stored.values)
    assert np.array_equal(layer.zeros, stored.zeros)
    assert np.array_equal(layer.codes, stored.codes[:, np.argsort(stored.g_idx, kind="stable")])
    assert layer.variant.mode == f"int{bits}_{'sym' if (stored.zeros == 1 << (bits - 1)).all() else 'asym'}"


def folder_of(tmp_path: Path, quantization: dict[str, Any] | None, tensors: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "model.safetensors")
    config = {} if quantization is None else {"quantization_config": quantization}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_other_models_are_none_of_its_business(tmp_path: Path) -> None:
    """A float model, and one of another quantization, is no GPTQ checkpoint."""
    assert Checkpoint.open(folder_of(tmp_path, None, {})) is None
    assert Checkpoint.open(folder_of(tmp_path, {"quant_method": "awq"}, {})) is None


@pytest.mark.parametrize(
    ("quantization", "missing", "message"),
    [
        ({"bits": 3}, None, "3 bits; only 4 and 8"),
        ({"bits": 4}, "qweight", "no safetensors file holds a qweight"),
        ({"bits": 4}, "scales", "a.scales is missing"),
        ({"bits": 8}, None, "tensors of a are not those of 8-bit GPTQ"),
    ],
)
def test_what_cannot_be_kept_is_named(
    tmp_path: Path, quantization: dict[str, Any], missing: str | None, message: str
) -> None:
    """Other bits, missing tensors and tensors that do not fit are refused with the file or the layer."""
    g_idx = np.arange(32, dtype=np.int32) // 16
    stored = quantize(np.ones((16, 32), np.float32), 4, 2, symmetric=True, g_idx=g_idx)
    tensors = {f"a.{part}": value for part, value in tensors_of(stored, 4, less_one=True).items() if part != missing}
    folder = folder_of(tmp_path, {"quant_method": "gptq", **quantization}, tensors)

    def read() -> None:
        checkpoint = Checkpoint.open(folder)
        assert checkpoint is not None
        checkpoint.layer("a")

    with pytest.raises(PrerequisiteError, match=message):
        read()
