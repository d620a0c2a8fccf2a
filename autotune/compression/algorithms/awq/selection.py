"""Selection of the channel groups that AWQ scales under given variants, and their scales, kept in the bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autotune.common.files import fingerprint
from autotune.common.threads import in_parallel
from autotune.compression.algorithms.awq.groups import ChannelGroup, Merge, find_groups
from autotune.compression.algorithms.awq.propagation import FREE, Labels
from autotune.compression.algorithms.awq.search import LEAST_GAIN, Doubles, Member, Scaling, by_label, search_scale
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.formats.encoding import Array
from autotune.compression.formats.table import LARGEST_FLOAT16
from autotune.compression.ir.constants import constant, narrow, read_f32, type_name
from autotune.compression.ir.layout import Variant
from autotune.compression.ir.model_weights import ModelWeights
from autotune.compression.ir.weights import Weight

LEAST_GAIN_INSERTED = 0.03
"""As `search.LEAST_GAIN`, if the scale costs a Multiply of the activation."""

LEAST_GAIN_GUESSED = 0.05
"""As `search.LEAST_GAIN`, without statistics. On a trained Llama, scales with an estimated gain of 1 to 3% changed the
real error by -5 to +9%, and by 0 on average."""

SMALLEST_NORMAL = 2.0**-14
NEGLIGIBLE = 2.0**-10
"""An element of a constant so much smaller than its largest one may lose digits."""


def possible(
    variants: Mapping[str, Variant], groups: Iterable[ChannelGroup], *, inserting: bool = True
) -> tuple[Scaling, ...]:
    """Return everything that could be scaled under these variants: groups with a weight in a format of few bits.

    The inverse is merged if all weights of the group and all producers are compressed, and no other group divides
    the same. Otherwise a Multiply is inserted before the weights of few bits, if `inserting` allows it; not before
    experts, which the plugins recognise by the operations around them.
    """
    taken: set[str] = set()
    scalings = []
    for group in groups:
        few_bits = tuple(name for name in group.weights if name in variants and variants[name].format.takes_algorithms)
        if not few_bits:
            continue
        merge = group.merge
        touched = set() if merge is None else {*merge.constants, *merge.producers}
        if merge is not None and not touched & taken and variants.keys() >= {*group.weights, *merge.producers}:
            taken |= touched
            scalings.append(Scaling(group, group.weights, merge))
        elif inserting and not group.experts:
            scalings.append(Scaling(group, few_bits, None))
    return tuple(scalings)


def marked(variants: Mapping[str, Variant], scalings: Iterable[Scaling]) -> dict[str, Variant]:
    """Mark the variants of the weights that these scalings change."""
    found = dict(variants)
    for scaling in scalings:
        for name in scaling.weights:
            found[name] = replace(found[name], awq=True)
        if scaling.merge is not None:
            for name in scaling.merge.producers:
                found[name] = replace(found[name], awq_output=True)
    return found


class ChannelScales:
    """The channel scales of one model.

    Attributes:
        groups: activation -> group, in topological order.
    """

    def __init__(self, source: ModelWeights, bank: Bank) -> None:
        """Find the groups of a model.

        Args:
            source: the model.
            bank: keeps the scales.
        """
        groups = find_groups(source.model, tuple(source.weights.values()))
        self.groups = {group.activation: group for group in groups}
        self._source, self._bank = source, bank

    @property
    def all_merge(self) -> bool:
        """True if no group needs a new operation to be scaled."""
        return all(group.merge is not None for group in self.groups.values())

    def choose(
        self, variants: Mapping[str, Variant], statistics: Statistics | None
    ) -> tuple[tuple[Scaling, ...], list[str]]:
        """Choose the scalings that lower the error of their weights.

        Args:
            variants: of all compressed weights.
            statistics: of the activations; None for scales from the weights alone, which are only merged.

        Returns:
            The scalings, and notes.
        """
        found = possible(variants, self.groups.values(), inserting=statistics is not None)
        if statistics is not None:
            found = tuple(s for s in found if all(self._source.weights[name].activations for name in s.weights))
        scales = self.search(found, variants, statistics)
        chosen = tuple(s for s, scale in zip(found, scales, strict=True) if (scale != 1).any())
        if not found:
            return chosen, ["awq: no weight of this model can take a channel scale; it changes nothing"]
        idle = len(found) - len(chosen)
        if not idle:
            return chosen, []
        return chosen, [f"awq: {idle} of {len(found)} inputs gain too little by a channel scale and have none"]

    def of_plan(
        self, inputs: Mapping[str, str], variants: Mapping[str, Variant], statistics: Statistics | None
    ) -> list[tuple[Scaling, Array]]:
        """Return the scalings of a plan with their scales; arguments as of `plan.Plan`."""
        scalings = []
        for activation, where in inputs.items():
            group = self.groups[activation]
            names = tuple(name for name in group.weights if name in variants and variants[name].awq)
            scalings.append(Scaling(group, names, group.merge if where == "merged" else None))
        return list(zip(scalings, self.search(scalings, variants, statistics), strict=True))

    def search(
        self, scalings: Sequence[Scaling], variants: Mapping[str, Variant], statistics: Statistics | None
    ) -> list[Array]:
        """Return the scale of each, float32 [K]; all ones if no scale gains enough.

        Args:
            scalings: groups that may be scaled.
            variants: of all weights concerned.
            statistics: of the activations; None for scales from the weights alone.
        """
        return in_parallel(lambda scaling: self._scale(scaling, variants, statistics), scalings)

    def _scale(self, scaling: Scaling, variants: Mapping[str, Variant], statistics: Statistics | None) -> Array:
        # The marks of AWQ itself do not matter: a row's divisor only goes into the scales of its groups.
        plain = {name: replace(variants[name], awq=False, awq_output=False) for name in scaling.weights}
        weights = [self._source.weights[name] for name in scaling.weights]
        group = scaling.group
        merge = scaling.merge
        key = fingerprint(
            "awq",
            [(*self._source.content_key(weight), plain[weight.name].as_dict()) for weight in weights],
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
            members = [Member(self._source.rows(weight), plain[weight.name]) for weight in weights]
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
        source = self._source
        return [
            fingerprint(merge.shared.tobytes()),
            [(source.sizes.digests[name], fingerprint(labels.tobytes())) for name, labels in merge.constants.items()],
            [
                (*source.content_key(source.weights[name]), variants[name].grid, fingerprint(labels.tobytes()))
                for name, labels in merge.producers.items()
            ],
        ]

    def _as_stored(self, scale: Array, merge: Merge | None) -> Array:
        """Return the nearest scale whose inverse is stored without loss, so that the function does not change.

        The inverse is stored in the inserted factor or, with a merge, in the first divided constant: a norm's gain.
        """
        if merge is None:
            return np.asarray(1 / (1 / scale).astype(np.float16).astype(np.float32))
        for name, labels in merge.constants.items():
            node = self._source.constants[name]
            values, kind = read_f32(node), type_name(node)
            stored = read_f32(constant(narrow(values / by_label(scale, labels), kind), values.shape, kind))
            exact = (labels != FREE) & (values != 0) & (stored != 0)
            nearby = scale.copy()
            nearby[labels[exact]] = values[exact] / stored[exact]
            return np.asarray(nearby[merge.shared])
        return scale

    def _by_rows(self, weight: Weight, reduce: Callable[[Array], Array]) -> Array:
        """Compute a number for each row of a weight, float32 [R]."""
        rows = self._source.rows(weight)
        return np.concatenate([reduce(rows.block(start)) for start in rows.starts])

    def _guessed(self, group: ChannelGroup) -> Array | None:
        """Estimate the mean square of each channel from the weights alone, float32 [K]; None without a merge.

        The activation is made of the constants that a division would change: a norm's gain and bias, applied to
        channels with a mean square of one, or the rows of the weight before, applied to nearly independent channels.
        """
        if group.merge is None:
            return None
        squares = np.zeros(group.width, np.float64)
        for name, labels in group.merge.constants.items():
            _add_squares(squares, np.square(read_f32(self._source.constants[name])), labels)
        for name, labels in group.merge.producers.items():
            weight = self._source.weights[name]
            _add_squares(squares, self._by_rows(weight, lambda rows: np.square(rows).sum(axis=1)), labels)
        return np.asarray(squares[group.merge.shared].astype(np.float32))

    def _bounds(self, merge: Merge, variants: Mapping[str, Variant], width: int) -> Doubles:
        """Bound c and 1 / c so that no divided number leaves the range of its float16, [K]."""
        bounds = np.full(width, np.inf)
        for name, labels in merge.constants.items():
            if type_name(self._source.constants[name]) == "f16":
                values = np.abs(read_f32(self._source.constants[name]))
                _tighten(bounds, np.maximum(values, NEGLIGIBLE * values.max()), labels)
        for name, labels in merge.producers.items():
            weight = self._source.weights[name]
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
