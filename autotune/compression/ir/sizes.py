"""Exact sizes of a model's weight files, from constants and shapes alone.

OpenVINO writes every distinct run of bytes once, so the size is that of the set of distinct constants.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autotune.common.threads import in_parallel
from autotune.compression.formats.quantize import with_second_order_scale
from autotune.compression.ir.constants import FLOAT_TYPES, raw_bytes, type_name
from autotune.compression.ir.layout import Variant, layout
from autotune.compression.ir.weights import Weight, compressed_already

if TYPE_CHECKING:
    import openvino as ov


class Beside(NamedTuple):
    """Bytes of the weight files of further IRs, which every model made of this one has.

    Attributes:
        original, fp32: as in `Sizes`.
        compressed: as they are stored beside a compressed model.
    """

    original: int = 0
    fp32: int = 0
    compressed: int = 0


class Sizes:
    """Sizes of a model and of everything that can be made of it.

    Attributes:
        digests: content digest of every constant, by friendly name.
        original: bytes of the model's own weight files.
        fp32: bytes that they would have with all float constants, and all weights that are compressed, in float32.
        beside: the part of them that is in further IRs.
    """

    def __init__(self, model: ov.Model, beside: Beside | None = None) -> None:
        self.digests: dict[str, str] = {}
        self._bytes: dict[str, int] = {}
        self._reshapes: dict[str, set[str]] = {}
        fp32: dict[str, int] = {}
        already = compressed_already(model)
        scales = {name for parts in already.values() for name in parts}
        constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
        contents = [raw_bytes(node) for node in constants]
        for node, data, digest in zip(constants, contents, in_parallel(_digest_of, contents), strict=True):
            name = node.get_friendly_name()
            # Names of constants that are no weights may repeat.
            name = f"{name} ({len(self.digests)})" if name in self.digests else name
            self.digests[name] = digest
            readers = [target.get_node() for target in node.output(0).get_target_inputs()]
            if readers and all(reader.get_type_name() == "Reshape" for reader in readers):
                self._reshapes[name] = {reader.get_friendly_name() for reader in readers}
            self._bytes[digest] = data.nbytes
            elements = int(np.prod(node.get_output_shape(0), dtype=np.int64))
            if node.get_friendly_name() in scales:
                continue
            is_float = type_name(node) in FLOAT_TYPES or node.get_friendly_name() in already
            fp32[digest] = 4 * elements if is_float else data.nbytes
        self.beside = Beside() if beside is None else beside
        self.original = sum(self._bytes.values()) + self.beside.original
        self.fp32 = sum(fp32.values()) + self.beside.fp32

    def nbytes(self, weight: Weight) -> int:
        """Bytes of a weight as it is stored in the original."""
        return self._bytes[self.digests[weight.name]]

    def footprint(
        self,
        weights: Iterable[Weight],
        variants: Mapping[str, Variant],
        replaced: Mapping[str, str],
        largest: Callable[[Weight], float],
        added: Iterable[int] = (),
    ) -> int:
        """Bytes of the weight files with these variants.

        Equal weights in equal variants are written once, like everything else that is equal. Constants that come out
        equal by accident (zero points of tiny weights, second-order scales where AWQ or adapters change the weights)
        are counted twice, since their content is not known before compression.

        Args:
            weights: all weights of the model.
            variants: variant of each compressed weight, by name; the others stay as they are.
            replaced: names of other constants that get new values of the same size, with the cause of the change.
            largest: returns the largest magnitude in a weight; called for second-order scales only.
            added: bytes of constants that are new, each one unlike all others.
        """
        weights = tuple(weights)
        bypassed = {reshape for weight in weights if weight.name in variants for reshape in weight.reshapes}
        removed = set(variants) | set(replaced)
        removed.update(name for name, readers in self._reshapes.items() if readers <= bypassed)
        # Identity of a constant's bytes -> their number.
        parts: dict[Hashable, int] = {d: self._bytes[d] for name, d in self.digests.items() if name not in removed}
        for name, cause in replaced.items():
            parts["replaced", self.digests[name], cause] = self._bytes[self.digests[name]]
        for weight in weights:
            variant = variants.get(weight.name)
            if variant is None:
                continue
            # Algorithms use the activations of each weight, so equal weights get different results.
            own = variant.looks_at_activations or variant.awq or variant.awq_output
            source = (
                self.digests[weight.name],
                weight.shape,
                weight.reduction_axes,
                variant,
                weight.name if own else "",
            )
            changed = variant.awq or variant.awq_output or variant.lora_rank > 0
            for kind, part in layout(weight, variant).items():
                content = part.content
                if kind == "second_order_scale" and not changed:
                    scaled = with_second_order_scale(variant.format, largest(weight))
                    content = np.float32(scaled.second_order_scale).tobytes()
                key = (kind, *source) if content is None else _digest_of(np.frombuffer(content, np.uint8))
                parts[key] = part.nbytes
        return sum(parts.values()) + sum(added) + self.beside.compressed


def _digest_of(array: npt.NDArray[Any]) -> str:
    import xxhash

    return xxhash.xxh3_128(array.view(np.uint8).data).hexdigest()
