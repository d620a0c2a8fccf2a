from __future__ import annotations

import openvino as ov
import pytest

from autotune.compression.calibration.segments import Segment, cut, extract, output_of
from autotune.compression.engine import Engine


def sizes(model: ov.Model, segments: list[Segment]) -> list[int]:
    """Operations of each segment's model."""
    before: list[str] = []
    counts = []
    for segment in segments:
        part = extract(model, segment, before, lambda x: [x])
        counts.append(len(part.get_ordered_ops()))
        before += segment.kept
    return counts


def test_without_need_nothing_is_cut(llama: ov.Model) -> None:
    """A model that fits the limit is one segment with all activations and nothing to keep."""
    activations = Engine(llama).activations
    (segment,) = cut(llama, dict.fromkeys(activations, 1), 1 << 40)
    assert sorted(segment.activations) == sorted(activations)
    assert segment.kept == ()


@pytest.mark.parametrize("limit", [1, 100_000, 300_000])
def test_every_activation_is_in_one_segment(llama: ov.Model, limit: int) -> None:
    """However small the segments, each activation is computed once, in the model's order."""
    activations = Engine(llama).activations
    segments = cut(llama, dict.fromkeys(activations, 100), limit)
    assert len(segments) > 1
    whole = cut(llama, dict.fromkeys(activations, 100), 1 << 40)
    assert [name for segment in segments for name in segment.activations] == list(whole[0].activations)
    assert max(sizes(llama, segments)) < sizes(llama, whole)[0]


def test_cuts_lie_where_only_the_residual_stream_crosses(llama: ov.Model) -> None:
    """If there are several cuts to choose from, one tensor [batch, tokens, hidden] crosses it, and little else."""
    nodes = {node.get_friendly_name(): node for node in llama.get_ordered_ops()}
    segments = cut(llama, dict.fromkeys(Engine(llama).activations, 100), 200_000)
    assert len(segments) > 1
    for segment in segments[:-1]:
        shapes = {name: output_of(nodes, name).get_partial_shape() for name in segment.kept}
        wide = [name for name, shape in shapes.items() if len(shape) == 3 and shape[2] == 64]
        assert len(wide) == 1
        assert output_of(nodes, wide[0]).get_node().get_type_name() in ("Add", "Gather")


def test_a_segment_is_only_as_deep_as_its_activations(llama: ov.Model) -> None:
    """The calibration model ends at the last activation that is needed, and has no states."""
    activations = cut(llama, dict.fromkeys(Engine(llama).activations, 1), 1 << 40)[0].activations
    depths = []
    for name in (activations[0], activations[1], activations[-1]):
        part = extract(llama, Segment((name,)), [], lambda x: [x])
        depths.append((len(part.get_ordered_ops()), len(part.get_sinks())))
    assert depths[0][0] < depths[1][0] < depths[2][0]
    assert [sinks for _, sinks in depths] == [0, 0, 0]


def test_the_model_is_not_changed(llama: ov.Model) -> None:
    """Segments are built in copies."""
    before = len(llama.get_ordered_ops())
    sizes(llama, cut(llama, dict.fromkeys(Engine(llama).activations, 100), 1))
    assert len(llama.get_ordered_ops()) == before
