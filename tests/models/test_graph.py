"""Graphs that cannot be scored are refused before any work, and what works with them works."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from autotune import api
from autotune.common.cache import Cache
from autotune.errors import AutotuneError, ConfigError
from autotune.models.runtime.graph import why_not_scorable
from autotune.models.source import resolve_model

TEXT = "Mira counts the hens. " * 40


def graph_of(*inputs: str, shape: tuple[int, ...] = (-1, -1)) -> ov.Model:
    """A graph with these inputs and the output logits."""
    parameters = [ops.parameter(list(shape), np.int64, name=name) for name in inputs]
    total = parameters[0]
    for parameter in parameters[1:]:
        total = ops.add(total, parameter)
    model = ov.Model([ops.result(total)], parameters, "graph")
    for port, name in zip(model.inputs, inputs, strict=True):
        port.set_names({name})
    model.outputs[0].set_names({"logits"})
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph_of("input_ids", "past_key_values.0.key", "past_key_values.0.value"), "its KV cache is in 2 inputs"),
        (graph_of("input_ids", "attention_mask", shape=(1, 16)), r"fixed shape \[1,16\]"),
        (graph_of("input_ids", "attention_mask"), "has no KV cache"),
        (graph_of("input_ids", "encoder_hidden_states"), "half of an encoder-decoder"),
        (graph_of("inputs_embeds", "attention_mask"), "its inputs are attention_mask, inputs_embeds"),
    ],
)
def test_the_reason_is_seen_from_the_ports(model: ov.Model, message: str) -> None:
    """And says what works, and how to get another export."""
    found = why_not_scorable(model.inputs, model.outputs, states=len(model.get_variables()))
    assert found is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)


def _fixed(model: ov.Model) -> ov.Model:
    model.reshape({port.get_any_name(): [1] if port.get_any_name() == "beam_idx" else [1, 16] for port in model.inputs})
    return model


def _without_states(model: ov.Model) -> ov.Model:
    """Replace each state by its initial value, as in an export without past."""
    for read in [node for node in model.get_ordered_ops() if node.get_type_name() == "ReadValue"]:
        for target in read.output(0).get_target_inputs():
            target.replace_source_output(read.input_value(0))
    for sink in model.get_sinks():
        model.remove_sink(sink)
    for variable in model.get_variables():
        model.remove_variable(variable)
    return model


@pytest.mark.parametrize(
    ("change", "message"), [(_fixed, "has an input_ids of the fixed shape"), (_without_states, "has no KV cache")]
)
def test_search_and_evaluation_refuse_them_and_compression_does_not(
    change: Callable[[ov.Model], ov.Model], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """Before a reference is computed; nothing is left in the study's folder but its lock."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    model = change(ov.Core().read_model(tiny_llama / "openvino_model.xml"))
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    perplexity = {"perplexity": {"texts": [TEXT], "sequence_length": 16, "samples": 2}}
    config = {"model": str(folder), "output": str(tmp_path / "out"), "evaluators": perplexity}
    config |= {"space": {"mode": "int8_asym"}, "study": {"workers": 0}, "cache": {"directory": str(tmp_path / "cache")}}
    for run in (
        lambda: api.evaluate(folder, reference=folder, evaluators=perplexity, cache=tmp_path / "cache", progress=False),
        lambda: api.plan(config, progress=False),
        lambda: api.search(config, progress=False),
    ):
        with pytest.raises(ConfigError, match=message):
            run()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".npz", ".safetensors")]
    assert api.compress(folder, mode="int4_asym", group_size=32, progress=False).footprint > 0


def test_models_in_parts_are_named(tmp_path: Path) -> None:
    """Encoder-decoders and models with images, as optimum-intel exports them."""
    for name in ("encoder", "decoder"):
        (tmp_path / f"openvino_{name}_model.xml").write_text("<net></net>")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AutotuneError, match="holds a model in parts"):
        resolve_model(str(tmp_path), cache=Cache.resolve(tmp_path / "cache"))
