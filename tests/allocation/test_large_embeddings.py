"""Models whose embedding holds most of the weights, tied and untied, in every storage type: cuts and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from families import FAMILIES, VOCABULARY
from openvino import opset15 as ops
from transformers import AutoTokenizer

from autotune.allocation.probe import Probe
from autotune.compression.calibration.calibrate import calibrate
from autotune.compression.calibration.segments import cut, extract
from autotune.compression.engine import Engine
from evaluators.perplexity import Perplexity

TYPES = {"f32": ov.Type.f32, "f16": ov.Type.f16, "bf16": ov.Type.bf16}
VOCABULARIES = (VOCABULARY, 8000)
"""The embedding (and the head) hold about a tenth and about eight tenths of the weights."""


def with_tables(model: ov.Model, vocabulary: int, storage: ov.Type, via: str = "") -> ov.Model:
    """A copy whose tables have more rows, whose weights are stored in another type, read through one more operation.

    Args:
        model: exported, float32.
        vocabulary: rows of the embedding and of the head.
        storage: type of all matrices.
        via: what stands behind a table: nothing, ``multiply`` or ``transpose`` (twice, of the transposed table).
    """
    copy = model.clone()
    generator = np.random.default_rng(0)
    for node in copy.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        shape = tuple(node.get_output_shape(0))
        if len(shape) < 2 or min(shape[-2:]) < 16:
            continue
        values = np.array(node.data)
        table = VOCABULARY in shape
        if table:
            axis = shape.index(VOCABULARY)
            more = [*shape]
            more[axis] = vocabulary - VOCABULARY
            values = np.concatenate([values, generator.normal(0, 0.1, more).astype(np.float32)], axis)
        name = node.get_friendly_name()
        targets = list(node.output(0).get_target_inputs())
        turned = table and via == "transpose"
        kept = ops.constant(np.ascontiguousarray(values.swapaxes(-1, -2)) if turned else values)
        if storage != ov.Type.f32:
            convert = ops.convert(kept, storage)
            # Folded to what an exporter writes: a constant of the type, and a Convert behind it.
            results = ov.Tensor(storage, kept.output(0).get_shape())
            assert convert.evaluate([results], [ov.Tensor(kept.data)])
            kept = ov.op.Constant(results)
        kept.set_friendly_name(name)
        read = ops.convert(kept, np.float32) if storage != ov.Type.f32 else kept
        read.set_friendly_name(f"{name}/read" if storage != ov.Type.f32 else name)
        if turned:
            read = ops.transpose(read, np.array([1, 0]))
        if table and via == "multiply":
            read = ops.multiply(read, np.float32(2))
        for target in targets:
            target.replace_source_output(read.output(0))
    copy.validate_nodes_and_infer_types()
    return copy


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, family_folder: Callable[[str], Path]) -> Path:
    return family_folder(request.param) / "ov"


@pytest.fixture(scope="module")
def extracted() -> set[Any]:
    """Family, graph and segments of the models whose segments were extracted."""
    return set()


def check(folder: Path, model: ov.Model, tmp_path: Path) -> Sequence[str]:
    """Check for one weight of each segment that the part behind the cut scores as the whole model.

    Returns:
        The activations that calibration looks at.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = Engine(model)
    text = tmp_path / "text.txt"
    text.write_text("The ledger is opened, and the day's numbers go in: eggs, loaves, the water. " * 20)
    evaluator = Perplexity(path=text, sequence_length=32, samples=2)
    chosen = [weight for weight in engine.weights if weight.uses[0].kind != "convolution"]
    probe = Probe(model, {w.name: w for w in chosen}, tokenizer, device="CPU", ov_config={})
    generator = np.random.default_rng(0)
    try:
        with probe.replaced({}) as original:
            reference = evaluator.reference(original)
        segments = {weight.name: probe.segment(weight.name) for weight in chosen}
        last = {number: name for name, number in segments.items()}  # one weight of each segment
        for name in last.values():
            weight = next(w for w in chosen if w.name == name)
            original_values = probe._originals[name].data
            noisy = original_values + generator.normal(0, 0.03, original_values.shape).astype(np.float32)
            values = {name: noisy.swapaxes(-1, -2) if name in probe._turned else noisy}
            assert values[name].shape == weight.shape or weight.reshapes
            found = probe.score(values, evaluator, reference)
            with probe.replaced(values) as whole:
                expected = evaluator.evaluate(whole, reference)["kl_divergence"]
            assert found.value == pytest.approx(expected.value, rel=1e-3, abs=1e-7)
    finally:
        probe.close()
    return engine.activations


def check_calibration(model: ov.Model, activations: Sequence[str], extracted: set[Any], kind: tuple[str, ...]) -> None:
    """Check the smallest segments: each can be extracted, and none keeps a value that depends on constants alone.

    Args:
        model: the original.
        activations: those that calibration looks at.
        extracted: what was extracted before; another vocabulary that is cut at the same places is not extracted again.
        kind: names the family and the graph.
    """
    segments = cut(model, dict.fromkeys(activations, 1), 1 << 12)
    cuts = (*kind, *segments)
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    before: list[str] = []
    for segment in segments:
        if cuts not in extracted:
            extract(model, segment, before, lambda output: [output])
        before += segment.kept
        for name in segment.kept:
            assert depends_on_input(nodes[name.rpartition(":")[0]]), name
    extracted.add(cuts)


def depends_on_input(node: ov.Node) -> bool:
    pending, visited = [node], set()
    while pending:
        each = pending.pop()
        if each.get_type_name() == "Parameter":
            return True
        if each.get_name() not in visited:
            visited.add(each.get_name())
            pending += [value.get_node() for value in each.input_values()]
    return False


@pytest.mark.parametrize(
    ("vocabulary", "storage"), [(VOCABULARIES[0], "f16"), *((VOCABULARIES[-1], storage) for storage in TYPES)]
)
def test_a_weight_behind_a_cut_costs_what_the_whole_model_says(
    exported: Path, storage: str, vocabulary: int, extracted: set[Any], tmp_path: Path
) -> None:
    original = ov.Core().read_model(exported / "openvino_model.xml")
    model = with_tables(original, vocabulary, TYPES[storage])
    activations = check(exported, model, tmp_path)
    graph = "with Converts" if storage in ("f16", "bf16") else "without"
    check_calibration(model, activations, extracted, (str(exported), graph))


@pytest.mark.parametrize("via", ["multiply", "transpose"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_tables_may_be_read_through_other_operations(
    family: str, via: str, family_folder: Callable[[str], Path], extracted: set[Any], tmp_path: Path
) -> None:
    """A tied or untied table behind Transpose or Multiply is still a constant, and no activation."""
    folder = family_folder(family) / "ov"
    original = ov.Core().read_model(folder / "openvino_model.xml")
    model = with_tables(original, VOCABULARIES[-1], ov.Type.f16, via)
    check_calibration(model, check(folder, model, tmp_path), extracted, (family, via))


def test_calibration_in_segments_is_calibration_in_one_piece(
    family_folder: Callable[[str], Path],
) -> None:
    """With a float16 table of most of the weights, cut as often as can be."""
    folder = family_folder("qwen2") / "ov"
    model = with_tables(ov.Core().read_model(folder / "openvino_model.xml"), VOCABULARIES[-1], ov.Type.f16)
    activations = Engine(model).activations
    tokens = np.arange(128, dtype=np.int64).reshape(4, 32)
    whole = {one.name: one.finish(128)[0] for one in calibrate(model, activations, tokens)}
    for one in calibrate(model, activations, tokens, segment_bytes=1 << 16):
        for key, values in one.finish(128)[0].items():
            np.testing.assert_allclose(values, whole[one.name][key], rtol=1e-4, atol=1e-6)
