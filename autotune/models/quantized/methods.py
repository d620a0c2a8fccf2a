"""Methods of quantization that config.json names: which packing each has, and what to do about the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import PrerequisiteError
from autotune.models.checkpoint import quantization
from autotune.models.quantized.packings import PACKINGS, Packing, auto_round_packing

_ORIGINAL = "name the original model, from before quantization (`base_model` on its page on the hub)"
_DEQUANTIZED_ON_LOAD = ("mxfp4",)
"""Methods whose weights transformers itself loads as bfloat16 on a CPU."""

_COMPRESSED_TENSORS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")
_OTHERS = {
    "aqlm": "codebooks of vectors",
    "bitnet": "ternary weights",
    "eetq": "int8 in the order of a CUDA kernel",
    "higgs": "codebooks of vectors",
    "hqq": "zero points that are not integers",
    "quanto": "weights that only optimum-quanto unpacks",
    "spqr": "sparse outliers",
    "torchao": "pickled tensor classes of torchao",
    "vptq": "codebooks of vectors",
}


def packing_of(config: Mapping[str, Any], file: Path) -> Packing | None:
    """Return how the layers of a checkpoint are packed; None if transformers loads it as a float model.

    Args:
        config: content of config.json.
        file: its path, for messages.

    Raises:
        PrerequisiteError: OpenVINO has no such codes; the message says why and what to do.
    """
    method = quantization(config)
    if method is None or method in _DEQUANTIZED_ON_LOAD:
        return None
    section = config.get("quantization_config") or {}
    problem, name = _examine(method, section)
    if problem is None:
        return PACKINGS[name]
    raise PrerequisiteError(f"{file}: the model is quantized by {method}, {problem}")


def _examine(method: str, section: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return why a checkpoint cannot be kept and the remedy, or None and the name of its packing."""
    packing = auto_round_packing(section)
    if method in ("gptq", "awq") or packing is not None:
        bits = section.get("bits", section.get("w_bit"))
        name = method if packing is None else "awq" if "awq" in packing else "gptq"
        version = str(section.get("version", "gemm")).lower()
        if bits not in ((4,) if name == "awq" else (4, 8)):
            return f"in {bits} bits; only {'4' if name == 'awq' else '4 and 8'} bits can be kept: {_ORIGINAL}", name
        if name == "awq" and (version != "gemm" or section.get("zero_point") is False):
            return f"packed in version {version!r}; only `gemm` with zero points can be kept: {_ORIGINAL}", name
        return None, name
    if method == "compressed-tensors":
        form = section.get("format")
        sparse = (section.get("sparsity_config") or {}).get("format", "dense")
        if form not in _COMPRESSED_TENSORS or sparse != "dense":
            form = form if sparse == "dense" else sparse
            return f"format {form}; only {', '.join(_COMPRESSED_TENSORS[:3])} can be kept: {_ORIGINAL}", method
        return None, method
    if method == "bitsandbytes":
        if section.get("load_in_8bit"):
            return None, "bitsandbytes 8-bit"
        kind = section.get("bnb_4bit_quant_type", "fp4")
        if kind == "nf4":
            return None, "bitsandbytes 4-bit"
        return f"type {kind}; of its 4-bit types only nf4 can be kept: {_ORIGINAL}", "bitsandbytes 4-bit"
    if method in ("fp8", "fbgemm_fp8"):
        return None, method
    if method == "mlx":
        return (
            "whose groups have an offset that is not a multiple of the scale. Convert it with `mlx_lm.convert "
            "--hf-path MODEL --mlx-path OUT --dequantize`, and name OUT, or " + _ORIGINAL,
            method,
        )
    return f"which OpenVINO has no format for ({_OTHERS.get(method, 'unknown to autotune')}): {_ORIGINAL}", method
