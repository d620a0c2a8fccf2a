"""Facts of a language model that its graph shows before it is compiled: whether it can be scored, and its window."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino as ov

INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "cache_position", "beam_idx"})
"""Inputs that scoring feeds."""

IMAGE_INPUTS = frozenset({"token_type_ids"})
"""Further inputs of language models in parts, which come from `Embeddings`."""

_EXPORT = "optimum-cli export openvino --task text-generation-with-past"


def why_not_scorable(
    inputs: Iterable[Any],
    outputs: Iterable[Any],
    *,
    states: int | None = None,
    fed: Collection[str] = (),
    tokens: str = "input_ids",
) -> str | None:
    """Return why logits and answers of a model cannot be computed, and what to do; None if they can.

    Args:
        inputs, outputs: ports of an `ov.Model` or a compiled one.
        states: number of its state variables; None if that is not known.
        fed: further inputs that the caller feeds.
        tokens: name of the input with the tokens, or with their embeddings.
    """
    ports = {port.get_any_name(): port for port in inputs}
    names = {name for port in ports.values() for name in port.get_names()}
    results = {name for port in outputs for name in port.get_names()}
    past = [name for name in ports if name.startswith(("past_key_values", "cache_params.past"))]
    if "encoder_hidden_states" in names or "decoder_input_ids" in names:
        return (
            "is one half of an encoder-decoder model, and only causal language models (decoders) can be scored. Its "
            "weights can be compressed without texts."
        )
    if past:
        return (
            f"is a stateless model: its KV cache is in {len(past)} inputs ({past[0]}, ...) instead of states. Search, "
            "evaluation, calibration and OpenVINO GenAI need states; compression without texts works. Export it again "
            f"without --disable-stateful: {_EXPORT}"
        )
    unknown = [name for name, port in ports.items() if not port.get_names() & (INPUTS | {tokens, *fed})]
    if unknown or tokens not in names or "logits" not in results:
        return (
            f"is not a stateful causal language model: its inputs are {', '.join(sorted(ports))} and its outputs "
            f"{', '.join(sorted(results))}, but only {', '.join(sorted(INPUTS))} and logits are known. Export it again "
            f"with optimum-intel's OVModelForCausalLM: {_EXPORT}"
        )
    shape = next(port.get_partial_shape() for port in ports.values() if tokens in port.get_names())
    if shape.rank.is_static and any(size.is_static for size in list(shape)[:2]):
        return (
            f"has an {tokens} of the fixed shape {shape}. Search, evaluation, calibration and OpenVINO GenAI on "
            "a CPU need a dynamic batch and length ([?,?]); compression without texts works. Export it again without a "
            f"call of `reshape`: {_EXPORT}"
        )
    if states == 0:
        return (
            "has no KV cache: it was exported for the task text-generation without past. Search, evaluation and "
            f"OpenVINO GenAI need one; compression without texts works. Export it again: {_EXPORT}"
        )
    return None


def attention_window(model: ov.Model) -> int | None:
    """Return the tokens that a sliding-window attention looks back; None if all attention looks back to the beginning.

    transformers masks keys by ``key > query - window``, on their columns in the KV cache. Columns that are masked
    otherwise, such as rejected drafts, count as well.
    """
    windows = []
    for node in model.get_ops():
        if node.get_type_name() not in ("Greater", "GreaterEqual", "Less", "LessEqual"):
            continue
        bounds = [port.get_node() for port in node.input_values()]
        terms = [
            port.get_node()
            for bound in bounds
            if bound.get_type_name() in ("Add", "Subtract")
            for port in bound.input_values()
        ]
        if any(bound.get_type_name() == "Subtract" for bound in bounds):  # query - key >= window
            terms += bounds
        for term in terms:
            if term.get_type_name() == "Constant" and term.get_element_type().is_integral():
                values = np.abs(np.asarray(term.data).reshape(-1))
                windows += [int(values[0])] if len(values) == 1 and values[0] > 1 else []
    return min(windows, default=None)
