"""Which groups of a model get a channel scale under given variants, and the scale of each, kept in the bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.files import fingerprint
from autotune.common.threads import in_parallel
from autotune.compression.algorithms.awq.groups import ChannelGroup, Merge
from autotune.compression.algorithms.awq.propagation import FREE, Labels
from autotune.compression.algorithms.awq.search import LEAST_GAIN, Doubles, Member, Scaling, by_label, search_scale
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.formats.quantize import Array
from autotune.compression.ir.constants import constant, narrow, read_f32, type_name
from autotune.compression.ir.weights import Weight
from autotune.compression.variants import BLOCK_ELEMENTS, RowReader, Variant

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["ChannelScales", "marked", "possible"]

LEAST_GAIN_INSERTED = 0.03
"""As `awq.LEAST_GAIN`, where a Multiply of the activation has to be paid for as well."""

LEAST_GAIN_GUESSED = 0.05
"""As `awq.LEAST_GAIN`, without statistics. On a trained Llama, scales that promised 1 to 3% by the guess changed the
real error by -5 to +9%, and by 0 on average."""

LARGEST_FLOAT16 = 65504.0
SMALLEST_NORMAL = 2.0**-14
NEGLIGIBLE = 2.0**-10
"""An element of a constant so much smaller than its largest one may lose digits."""


def possible(
    variants: Mapping[str, Variant], groups: Iterable[ChannelGroup], *, inserting: bool = True
) -> tuple[Scaling, ...]:
    """Everything that could be scaled under these variants: groups with a weight in a format of few bits.

    The inverse is merged where all weights of the group and all producers are compressed, and no other group divides
    the same; otherwise a Multiply is inserted before the weights of few bits, if that is wanted.
    """
    taken: set[str] = set()
    scalings = []
    for group in groups:
        few_bits = tuple(name for name in group.weights if name in variants and variants[name].format.takes_algorithms)
        if not few_bits:
            continue
        merge = group.merge
        touched = set() if merge is None else {*merge.constants, *merge.producers}
        if merge is not None and not touched & taken and _can_take(variants, (*group.weights, *merge.producers)):
            taken |= touched
            scalings.append(Scaling(group, group.weights, merge))
        elif inserting:
            scalings.append(Scaling(group, few_bits, None))
    return tuple(scalings)


def _can_take(variants: Mapping[str, Variant], names: Iterable[str]) -> bool:
    return all(name in variants for name in names)


def marked(variants: Mapping[str, Variant], scalings: Iterable[Scaling]) -> dict[str, Variant]:
    """The variants with the weights marked that these scalings change."""
    found = dict(variants)
    for scaling in scalings:
        for name in scaling.weights:
            found[name] = replace(found[name], awq=True)
        if scaling.merge is not None:
            for name in scaling.merge.producers:
                found[name] = replace(found[name], awq_output=True)
    return found


class ChannelScales:
    """The scales of one model.

    Attributes:
        groups: activation -> group, in topological order.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        weights: Mapping[str, Weight],
        constants: Mapping[str, ov.Node],
        read: Callable[[Weight], RowReader],
        content: Callable[[Weight], list[Any]],
        digests: Mapping[str, str],
        bank: Bank,
    ) -> None:
        """Say where things are.

        Args:
            groups: of the model.
            weights: all its weights by name.
            constants: all its Constants by name.
            read: a weight's rows.
            content: what a weight's bytes are known by.
            digests: content digest of every Constant by name.
            bank: keeps the scales.
        """
        self.groups = {group.activation: group for group in groups}
        self._weights, self._constants = weights, constants
        self._read, self._content, self._digests, self._bank = read, content, digests, bank

    @property
    def all_merge(self) -> bool:
        """Whether no group needs an operation of its own to be scaled."""
        return all(group.merge is not None for group in self.groups.values())

    def search(
        self, scalings: Sequence[Scaling], variants: Mapping[str, Variant], statistics: Statistics | None
    ) -> list[Array]:
        """The scale of each, float32 [K]; all ones where none is worth it.

        Args:
            scalings: what may be scaled.
            variants: of all weights concerned.
            statistics: of the activations; None for scales from the weights alone.
        """
        return in_parallel(lambda scaling: self._scale(scaling, variants, statistics), scalings)

    def _scale(self, scaling: Scaling, variants: Mapping[str, Variant], statistics: Statistics | None) -> Array:
        # The marks of AWQ itself do not matter: a row's divisor only goes into the scales of its groups.
        plain = {name: replace(variants[name], awq=False, awq_output=False) for name in scaling.weights}
        weights = [self._weights[name] for name in scaling.weights]
        group = scaling.group
        merge = scaling.merge
        key = fingerprint(
            "awq",
            [(*self._content(weight), plain[weight.name].as_dict()) for weight in weights],
            None if merge is None else self._described(merge, variants),
            None if statistics is None else [statistics.fingerprint, weights[0].activations[0]],
        )

        def compute() -> Mapping[str, Any]:
            moment = (
                self._guessed(group)
                if statistics is None
                else statistics.array(weights[0].activations[0], "second_moment")
            )
            if moment is None:
                return {"scale": np.ones(group.width, np.float32)}
            members = [Member(weight, plain[weight.name], self._read(weight)) for weight in weights]
            scale = search_scale(
                members,
                moment,
                shared=None if merge is None else merge.shared,
                largest=None if merge is None else self._bounds(merge, variants, group.width),
                least_gain=(
                    LEAST_GAIN_GUESSED if statistics is None else LEAST_GAIN_INSERTED if merge is None else LEAST_GAIN
                ),
            )
            return {"scale": self._as_stored(scale, merge)}

        return np.asarray(self._bank.get_or_compute(key, compute)["scale"])

    def _described(self, merge: Merge, variants: Mapping[str, Variant]) -> list[Any]:
        return [
            fingerprint(merge.shared.tobytes()),
            [(self._digests[name], fingerprint(labels.tobytes())) for name, labels in merge.constants.items()],
            [
                (*self._content(self._weights[name]), variants[name].grid, fingerprint(labels.tobytes()))
                for name, labels in merge.producers.items()
            ],
        ]

    def _as_stored(self, scale: Array, merge: Merge | None) -> Array:
        """The scale nearby whose inverse loses nothing where it is stored, so that the function stays exactly.

        That is the inserted factor or, where one is divided, the first constant: a norm's gain.
        """
        if merge is None:
            return np.asarray(1 / (1 / scale).astype(np.float16).astype(np.float32))
        for name, labels in merge.constants.items():
            node = self._constants[name]
            values, kind = read_f32(node), type_name(node)
            stored = read_f32(constant(narrow(values / by_label(scale, labels), kind), values.shape, kind))
            exact = (labels != FREE) & (values != 0) & (stored != 0)
            nearby = scale.copy()
            nearby[labels[exact]] = values[exact] / stored[exact]
            return np.asarray(nearby[merge.shared])
        return scale

    def _by_rows(self, weight: Weight, reduce: Callable[[Array], Array]) -> Array:
        """A number for each row of a weight, float32 [R]."""
        read, step = self._read(weight), max(1, BLOCK_ELEMENTS // weight.columns)
        return np.concatenate([reduce(read(i, min(i + step, weight.rows))) for i in range(0, weight.rows, step)])

    def _guessed(self, group: ChannelGroup) -> Array | None:
        """The mean square of each channel as far as the weights tell, float32 [K]; None where they tell nothing.

        What a division would reach is what the activation is made of: a norm's gain and bias, of channels that have
        a mean square of one before, or the rows of the weight before, of channels that are as good as independent.
        """
        if group.merge is None:
            return None
        squares = np.zeros(group.width, np.float64)
        for name, labels in group.merge.constants.items():
            _add_squares(squares, np.square(read_f32(self._constants[name])), labels)
        for name, labels in group.merge.producers.items():
            weight = self._weights[name]
            _add_squares(squares, self._by_rows(weight, lambda rows: np.square(rows).sum(axis=1)), labels)
        return np.asarray(squares[group.merge.shared].astype(np.float32))

    def _bounds(self, merge: Merge, variants: Mapping[str, Variant], width: int) -> Doubles:
        """How large c and 1 / c may become before a divided number leaves the range of its float16, [K]."""
        bounds = np.full(width, np.inf)
        for name, labels in merge.constants.items():
            if type_name(self._constants[name]) == "f16":
                values = np.abs(read_f32(self._constants[name]))
                _tighten(bounds, np.maximum(values, NEGLIGIBLE * values.max()), labels)
        for name, labels in merge.producers.items():
            weight = self._weights[name]
            largest = self._by_rows(weight, lambda rows: np.abs(rows).max(axis=1))
            _tighten(bounds, largest / 2.0 ** variants[name].format.bits, labels)
        return bounds


def _add_squares(sums: Doubles, squares: Array, labels: Labels) -> None:
    np.add.at(sums, labels[labels != FREE], squares[labels != FREE])


def _tighten(bounds: Doubles, stored: Array, labels: Labels) -> None:
    """Bound c and 1 / c so that stored / c stays a normal float16; no bound below one."""
    stored = np.maximum(stored, np.finfo(np.float32).tiny)
    room = np.maximum(np.minimum(stored / SMALLEST_NORMAL, LARGEST_FLOAT16 / stored), 1)
    np.minimum.at(bounds, labels[labels != FREE], room[labels != FREE])
