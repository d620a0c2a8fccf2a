"""Measure the loss of a model with some of its weights replaced: for language models, the KL divergence.

A probe is a model whose weights are inputs: compiled once, then run with any weight replaced. Compiling a model for
every (weight, variant) would take longer than running it. From a few hundred tokens on, OpenVINO multiplies by an input
about as fast as by a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.allocation.suffix import Suffixes
from autotune.compression.ir.constants import read_f32
from autotune.compression.ir.weights import Weight
from autotune.models.tasks.registry import DEFAULT, task_named
from autotune.models.tasks.task import Loss, Task

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

    from autotune.common.cache import Cache
    from autotune.compression.engine import Engine
    from autotune.evaluation import Evaluator, Measurement, Reference
    from autotune.models.source import SourceModel

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts on which divergences are measured: the evaluator of the task's loss, and its reference.

    Attributes:
        evaluator: measures the loss.
        reference: returns the original's reference.
        key: changes with everything that could change the reference or a score.
        loss: what is measured.
    """

    evaluator: Evaluator
    reference: Callable[[], Reference]
    key: str
    loss: Loss = field(default_factory=lambda: task_named(DEFAULT).loss)

    @property
    def tokens(self) -> int:
        """Tokens of one measurement."""
        return int(np.asarray(self.reference()["tokens"]).size)


@dataclass(frozen=True)
class MeasuringInputs:
    """Original model and runtime for the measurements of an allocation.

    Attributes:
        engine, source: of the original model.
        tokenizer: returns the model's tokenizer.
        cache: stores the references.
        device, ov_config: as for `OpenVINOLanguageModel`.
    """

    engine: Engine
    source: SourceModel
    tokenizer: Callable[[], Any]
    cache: Cache
    device: str = "CPU"
    ov_config: Mapping[str, Any] = field(default_factory=dict)

    def texts(self, options: Mapping[str, Any]) -> Texts:
        """Make texts from options of the loss's evaluator."""
        from autotune.evaluation import SCORING_CONFIG
        from autotune.evaluation.registry import create_evaluator
        from autotune.evaluation.stores import ReferenceStore, reference_key, stored_reference

        store = ReferenceStore(self.cache.references)
        loss = self.source.task.loss
        name = loss.evaluator
        evaluator = create_evaluator(name, dict(options))
        inputs: dict[str, Any] = {
            "model_fingerprint": self.source.fingerprint,
            "tokenizer_fingerprint": self.source.tokenizer_fingerprint,
            "ov_config": {"device": self.device, **SCORING_CONFIG, **self.ov_config},
        }
        key = reference_key(name, evaluator, **inputs)
        return Texts(evaluator, lambda: stored_reference(store, name, evaluator, self._original, inputs), key, loss)

    @contextmanager
    def _original(self) -> Iterator[Callable[[], Any]]:
        """Enter work on the original, which the function given compiles."""
        config: dict[str, Any] = {"device": self.device, "ov_config": self.ov_config, "folder": self.source.path}
        with ExitStack() as stack:
            yield lambda: stack.enter_context(self.source.task.compiled(self.engine.model, self.tokenizer(), **config))

    def probe(self, names: Collection[str]) -> Probe:
        """Compile a probe of these weights."""
        weights = {weight.name: weight for weight in self.engine.weights if weight.name in names}
        config: dict[str, Any] = {"device": self.device, "ov_config": self.ov_config, "folder": self.source.path}
        return Probe(self.engine.model, weights, self.tokenizer(), **config, task=self.source.task)


class Probe:
    """Model with some of its weights as inputs."""

    def __init__(
        self,
        model: ov.Model,
        weights: Mapping[str, Weight],
        tokenizer: Any,
        *,
        device: str,
        ov_config: Mapping[str, Any],
        folder: Path | None = None,
        task: Task | None = None,
    ) -> None:
        """Compile the model with these weights as inputs, which hold the original's values in float32.

        Args:
            model: the original; not changed.
            weights: by name; convolutions are refused by OpenVINO's CPU plugin.
            tokenizer: the model's.
            device, ov_config: as for `OpenVINOLanguageModel`.
            folder: the original's, see `Task.compiled`.
            task: the model's; None is text generation.
        """
        self._task = task_named(DEFAULT) if task is None else task
        probe, self._turned = with_weights_as_inputs(model, weights)
        self._originals = {
            name: self._as_input(name, values) for name, values in original_values(model, weights).items()
        }
        self._inputs = {input_name(name): tensor for name, tensor in self._originals.items()}
        self._whole = self._task.compiled(
            probe, tokenizer, folder=folder, device=device, ov_config=ov_config, constants=self._inputs
        )
        self._make_suffixes = partial(
            Suffixes, model, probe, self._inputs, tokenizer, device=device, ov_config=ov_config
        )

    @cached_property
    def _suffixes(self) -> Suffixes:
        return self._make_suffixes()

    @contextmanager
    def replaced(self, values: Mapping[str, Array]) -> Iterator[Any]:
        """Replace these weights, float32 in the shape of their constants, until the block ends."""
        self._inputs.update({input_name(name): self._as_input(name, value) for name, value in values.items()})
        try:
            yield self._whole
        finally:
            self._inputs.update({input_name(name): self._originals[name] for name in values})

    def _as_input(self, name: str, values: Array) -> ov.Tensor:
        return _tensor(values.swapaxes(-1, -2) if name in self._turned else values)

    def score(self, values: Mapping[str, Array], evaluator: Evaluator, reference: Reference) -> Measurement:
        """Measure the task's loss against the original with these weights replaced.

        For a single weight of a language model, only the segments after it are run. Measuring weights in the model's
        order is fastest.
        """
        with self.replaced(values) as whole:
            segment = self.segment(*values) if len(values) == 1 and self._task.name == DEFAULT else 0
            model = self._suffixes.behind(segment) if segment else whole
            return self._task.loss.of(evaluator.evaluate(model, reference))

    def segment(self, name: str) -> int:
        """Return the number of the segment that first uses a weight."""
        return self._suffixes.segment(input_name(name))

    def close(self) -> None:
        """Free the compiled models and the weights."""
        if "_suffixes" in self.__dict__:  # the property would make them
            self._suffixes.close()
        self._whole.close()
        self._inputs.clear()
        self._originals.clear()


def input_name(weight: str) -> str:
    """Name the input of a weight."""
    return f"{weight}/probe"


def original_values(model: ov.Model, weights: Mapping[str, Weight]) -> dict[str, Array]:
    """Read the weights in float32, each in its constant's shape."""
    constants = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    return {name: read_f32(constants[name]) for name in weights}


def with_weights_as_inputs(model: ov.Model, weights: Mapping[str, Weight]) -> tuple[ov.Model, frozenset[str]]:
    """Copy the model with a float32 Parameter in place of each weight and of the Convert after it.

    Returns:
        The copy, and the names of the weights that it takes with their last two axes exchanged. These are the experts
        of mixtures: the CPU plugin turns products with a batch of transposed matrices into an operation that takes
        constants only. It leaves products with plain matrices alone.
    """
    import openvino as ov
    from openvino import opset15 as ops

    copy = model.clone()
    constants = {node.get_friendly_name(): node for node in copy.get_ordered_ops()}
    added, turned = [], []
    for name, weight in weights.items():
        old = constants[name]
        products = _products(old) if len(weight.shape) > 2 else []
        shape = list(weight.shape)
        if products:
            turned.append(name)
            shape[-2:] = shape[:-3:-1]
        parameter = ops.parameter(shape, np.float32, name=input_name(name))
        parameter.output(0).set_names({input_name(name)})
        added.append(parameter)
        if products:
            for product in products:
                _turn(product, parameter)
        else:
            for target in list(old.output(0).get_target_inputs()):
                _feed(target, parameter, old)
    inputs = [*copy.get_parameters(), *added]
    return ov.Model(copy.get_results(), copy.get_sinks(), inputs, "probe"), frozenset(turned)


def _products(constant: ov.Node) -> list[ov.Node]:
    """Find the MatMuls whose second factor is this constant, directly or via a Convert; none if it feeds others."""
    found = []
    for target in constant.output(0).get_target_inputs():
        node = target.get_node()
        behind = node.output(0).get_target_inputs() if node.get_type_name() == "Convert" else [target]
        found += [(each.get_node(), each.get_index()) for each in behind]
    only = all(node.get_type_name() == "MatMul" and port == 1 for node, port in found)
    plain = only and all(node.get_output_element_type(0).get_type_name() == "f32" for node, _ in found)
    return [node for node, _ in found] if plain else []


def _turn(product: ov.Node, parameter: ov.Node) -> None:
    """Replace a MatMul by one whose second factor is the parameter, transposed the other way."""
    from openvino import opset15 as ops

    attributes = product.get_attributes()
    new = ops.matmul(product.input_value(0), parameter, attributes["transpose_a"], not attributes["transpose_b"])
    new.set_friendly_name(product.get_friendly_name())
    for target in list(product.output(0).get_target_inputs()):
        target.replace_source_output(new.output(0))


def _feed(target: Any, parameter: ov.Node, old: ov.Node) -> None:
    """Connect the consumers of a constant to the parameter; a Convert to float32 in between is dropped."""
    from openvino import opset15 as ops

    node = target.get_node()
    if node.get_type_name() == "Convert" and node.get_output_element_type(0) == parameter.get_element_type():
        for further in list(node.output(0).get_target_inputs()):
            further.replace_source_output(parameter.output(0))
    elif old.get_element_type() == parameter.get_element_type():
        target.replace_source_output(parameter.output(0))
    else:
        target.replace_source_output(ops.convert(parameter, old.get_element_type()).output(0))


def _tensor(values: Array) -> ov.Tensor:
    import openvino as ov

    # A float32 constant that is mapped from its file cannot be written, and OpenVINO takes no such array: it is copied.
    return ov.Tensor(np.require(values, requirements=["C", "W"]), shared_memory=True)
