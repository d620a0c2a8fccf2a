"""Distillation of one compressed model: trained once, kept in the bank, resumed after an interruption."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.cache import folder_size
from autotune.common.files import DAMAGE, fingerprint, locked, read_tensors, write_tensors
from autotune.common.formatting import duration, size
from autotune.common.threads import cores
from autotune.compression.bank import Bank, Entry
from autotune.compression.ir.constants import constant, model_digest, raw_bytes, type_name
from autotune.errors import PlanError

if TYPE_CHECKING:
    import numpy.typing as npt
    import openvino as ov

    from autotune.compression.ir.weights import Weight
    from autotune.compression.variants import CompressedWeight

VERSION = 4
"""Part of every key in the bank; changes whenever a trained model's bytes change."""

LEAST_WINDOWS = 16
LEAST_TOKENS = 2048
HELD_OUT = 8
"""One window of so many is held out, at least `LEAST_HELD_OUT`."""
LEAST_HELD_OUT = 4
CONFIDENCE = 2.0
"""Standard errors of the difference by which a trained model must be better to be kept."""
STEP_SECONDS = 1e-4
"""Overhead of a step of the rounding, in which few numbers are computed; estimated from a dozen calls of NumPy."""
HELD_OUT_KEY = "held_out"
"""Entry of the bank with the divergences of the held-out windows."""
SAVED_EVERY = 20.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Gain of one training on the held-out windows.

    Attributes:
        before, after: mean divergence per token from the original, with and without the changes.
        kept: the model has the changes; otherwise it is as it was.
    """

    before: float
    after: float
    kept: bool

    def describe(self) -> str:
        """Describe the gain in a sentence."""
        if not self.kept:
            return "distillation: no gain on the held-out windows beyond their noise; the model is left as it was"
        return (
            f"distillation: divergence on the held-out windows {self.before:.6f} before and {self.after:.6f} after "
            f"({100 * (self.after / self.before - 1):+.1f}%)"
        )


def check(original: ov.Model, tokens: npt.NDArray[np.int64], memory: int, scratch: Path) -> None:
    """Refuse what cannot be distilled, before any work.

    Args:
        original, tokens, scratch: as for `distil`.
        memory: bytes that may be used.

    Raises:
        PlanError: the graph is not supported, there are too few windows, or the memory or the disk does not suffice.
    """
    windows, length = tokens.shape
    if windows < LEAST_WINDOWS or windows * length < LEAST_TOKENS:
        raise PlanError(
            f"distillation: {windows} calibration windows of {length} tokens are too few to train on some and to "
            f"check the result on others; use at least {LEAST_WINDOWS} windows and {LEAST_TOKENS} tokens (samples, "
            "sequence_length)"
        )
    from autotune.distillation.memory import divide

    division = divide(original, tokens.shape, memory)
    if division.needed > memory:
        raise PlanError(
            f"distillation needs about {division.needed / 1e9:.1f} GB of memory with {cores()} threads, and "
            f"{memory / 1e9:.1f} GB can be used; use a machine with more memory or a larger study.memory_limit, fewer "
            "threads (AUTOTUNE_THREADS=1), or no distillation"
        )
    free = free_space(scratch)
    if division.disk > free:
        raise PlanError(
            f"distillation needs about {size(division.disk)} for temporary files in {scratch}, and {size(free)} are "
            "free there; free disk space, choose another folder by cache.directory or AUTOTUNE_CACHE, or use no "
            "distillation"
        )


def free_space(scratch: Path) -> int:
    """Measure the bytes that are free for temporary files, with those that a killed run has left to continue from."""
    place = next(path for path in (scratch, *scratch.parents) if path.is_dir())
    return shutil.disk_usage(place).free + folder_size(scratch)


def work(weights: Iterable[Weight], windows: int, length: int, *, divided: bool) -> tuple[float, int]:
    """Count the floating-point operations of all steps on so many windows, and the steps of the rounding.

    Checks on held-out windows are a small addition. If the graphs are divided into blocks, each is computed once more.
    """
    from autotune.distillation.codes import MOST_TOKENS, rounding_steps
    from autotune.distillation.training import Recipe

    matrices = [weight for weight in weights if weight.kind == "matmul"]
    rounded = [weight for weight in matrices if not weight.is_last and len(weight.shape) == 2]
    forward = 2.0 * sum(weight.size for weight in matrices)
    tokens = (windows - held_out(windows)) * length
    # A backward pass computes the gradients of activations and, in training, of weights; each as large as the forward.
    training = (3 + divided) * Recipe().tokens(tokens) * forward
    moments = 2.0 * sum(weight.rows**2 + weight.columns**2 for weight in rounded)
    gradients = min(tokens, MOST_TOKENS) * ((2 + divided) * forward + moments)
    rounding = float(sum(weight.size * (weight.rows + 2 * weight.columns) for weight in rounded))
    return training + gradients + rounding, sum(rounding_steps(weight.rows, weight.columns) for weight in rounded)


def held_out(windows: int) -> int:
    """Return how many of the windows, the last ones, are held out."""
    return max(LEAST_HELD_OUT, windows // HELD_OUT)


def output_gradients(
    model: ov.Model, weights: Sequence[Weight], tokens: npt.NDArray[np.int64], *, bank: Bank, memory: int
) -> Entry:
    """Measure how much the divergence depends on each output of a model's weights; computed once in a bank.

    Args:
        model: the original.
        weights: its weights.
        tokens: int64 [n, T], calibration windows.
        bank: keeps the result.
        memory: bytes that may be used.

    Returns:
        See `curvature.mean_square_gradients`.

    Raises:
        PlanError: torch cannot run the model, or the memory does not suffice.
    """
    from importlib.metadata import version

    from autotune.distillation.curvature import GRADIENT_TOKENS, mean_square_gradients
    from autotune.distillation.memory import divide

    text = np.ascontiguousarray(tokens[: max(1, GRADIENT_TOKENS // tokens.shape[1])])

    def compute() -> Entry:
        division = divide(model, text.shape, memory)
        if division.needed > memory:
            raise PlanError(
                f"it takes about {division.needed / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB can be used"
            )
        return mean_square_gradients(model, weights, text, division.limit)

    inputs = [VERSION, version("torch"), model_digest(model), list(text.shape)]
    return bank.get_or_compute(fingerprint("gradients", *inputs, text.tobytes()), compute)


def distil(
    original: ov.Model,
    compressed: ov.Model,
    weights: Mapping[str, CompressedWeight],
    tokens: npt.NDArray[np.int64],
    *,
    bank: Bank,
    scratch: Path,
    memory: int,
    stage: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Round a compressed model's codes again, and train its scales, norm gains, biases and adapters.

    Both steps lower the divergence from the original, and each is kept only if it does so on held-out windows.

    The result is the same for any number of threads, and for any memory, on one kind of CPU and one version of torch.

    Args:
        original: the model before compression.
        compressed: the model that is changed in place; it keeps its size.
        weights: its compressed weights, by name.
        tokens: int64 [n, T]; the last eighth of the windows is held out.
        bank: keeps the result.
        scratch: folder of the checkpoints from which a killed run continues, and of activations between blocks.
        memory: bytes that may be used; see `memory.divide`.
        stage: receives progress messages.

    Raises:
        PlanError: the graph is not supported; see `check`, which is called before.
    """
    from importlib.metadata import version

    from autotune.distillation.memory import divide
    from autotune.distillation.training import Recipe

    recipe = Recipe()
    limit = divide(original, tokens.shape, memory).limit
    inputs = (list(tokens.shape), np.ascontiguousarray(tokens).tobytes(), version("torch"), sorted(weights))

    def key(what: str, *settings: Any) -> str:
        models = [model_digest(original), model_digest(compressed)]
        return fingerprint(what, VERSION, *settings, models, *inputs)

    rounded = key("rounding")
    folder = scratch / rounded
    with locked(folder):
        rounding = bank.get_or_compute(
            rounded, lambda: _rounded(original, compressed, weights, tokens, folder, limit, stage)
        )
    shutil.rmtree(folder, ignore_errors=True)
    changed = len(rounding) > 1
    if changed:
        nodes = {node.get_friendly_name(): node for node in compressed.get_ordered_ops()}
        _replace((nodes[name], data) for name, data in rounding.items() if name != HELD_OUT_KEY)
    trained = key("distillation", asdict(recipe))
    path = scratch / f"{trained}.safetensors"
    with locked(path):
        entry = bank.get_or_compute(
            trained, lambda: _trained(original, compressed, weights, tokens, recipe, path, limit, stage)
        )
    path.unlink(missing_ok=True)
    if len(entry) > 1:
        ordered = compressed.get_ordered_ops()
        _replace((ordered[int(step)], data) for step, data in entry.items() if step != HELD_OUT_KEY)
    before, after = rounding[HELD_OUT_KEY][0].mean(), entry[HELD_OUT_KEY][1].mean()
    return Outcome(float(before), float(after), changed or len(entry) > 1)


def _rounded(
    original: ov.Model,
    compressed: ov.Model,
    weights: Mapping[str, CompressedWeight],
    tokens: npt.NDArray[np.int64],
    folder: Path,
    limit: float,
    stage: Callable[[str], None],
) -> Entry:
    """Round the codes again: their new bytes by the constant's name if they are better, with ``held_out``.

    What a killed process has left in `folder` is not computed again.
    """
    import torch

    from autotune.distillation.codes import find_products, round_again
    from autotune.distillation.curvature import remove_between
    from autotune.distillation.graph import Graph
    from autotune.distillation.sweeps import Store
    from autotune.distillation.training import Student, is_better

    stage("distillation: reading the models")
    reference = Graph(original)
    _, count, share = _split(*tokens.shape)
    texts = torch.from_numpy(np.ascontiguousarray(tokens[len(tokens) - count :]))

    def divergences() -> npt.NDArray[np.float64]:
        student = Student(reference, Graph(compressed), [], texts, limit)
        student.prepare()
        return student.divergences(torch.zeros(0), range(count))

    store = Store(folder)
    if not store.has("before"):
        store.put("before", {0: torch.from_numpy(divergences())})
    before = store.get("before")[0].numpy()
    products = find_products(reference, compressed, weights)
    if not products:
        return {HELD_OUT_KEY: np.stack([before, before])}
    training = tokens[: len(tokens) - count]
    try:
        found = round_again(reference, products, weights, training, share, stage, limit=limit, folder=folder)
    except OSError:
        remove_between(folder)  # a study whose disk is full has to write its report
        raise
    nodes = {node.get_friendly_name(): node for node in compressed.get_ordered_ops()}
    old = {name: raw_bytes(nodes[name]).copy() for name in found}
    _replace((nodes[name], data) for name, data in found.items())
    after = divergences()
    nodes = {node.get_friendly_name(): node for node in compressed.get_ordered_ops()}
    _replace((nodes[name], data) for name, data in old.items())
    held = np.stack([before, after])
    return {HELD_OUT_KEY: held, **(found if is_better(held, CONFIDENCE) else {})}


def _split(windows: int, length: int) -> tuple[int, int, int]:
    """Return how many windows are trained on and held out, and how many run on one thread at a time.

    Both are multiples of the last; windows that are left over are not used.
    """
    from autotune.distillation.training import SHARE_TOKENS

    share = max(1, SHARE_TOKENS // length)
    used = windows // share * share
    trained = (used - held_out(used)) // share * share
    return trained, used - trained, share


def _trained(
    original: ov.Model,
    compressed: ov.Model,
    weights: Collection[str],
    tokens: npt.NDArray[np.int64],
    recipe: Any,
    path: Path,
    limit: float,
    stage: Callable[[str], None],
) -> Entry:
    """Train, and return the new bytes of each changed constant by its position in the graph, with ``held_out``."""
    import torch

    from autotune.distillation.graph import Graph
    from autotune.distillation.parameters import find_trainable
    from autotune.distillation.training import Student, is_better, train

    graph, reference = Graph(compressed), Graph(original)
    trainables = find_trainable(graph, weights)
    if not trainables:
        raise PlanError("distillation: nothing in this model can be trained; compress it without distillation")
    student = Student(reference, graph, trainables, torch.from_numpy(np.ascontiguousarray(tokens)), limit)
    student.prepare()
    split, count, _ = _split(*tokens.shape)
    saved = begun = time.monotonic()
    state = _load(path, student.size)
    first = None if state is None else state.step

    def report(now: Any, steps: int) -> None:
        nonlocal saved, first
        first = now.step - 1 if first is None else first
        clock = time.monotonic()
        left = (clock - begun) / (now.step - first) * (steps - now.step)
        gain = 1 - now.held_out[1].mean() / now.held_out[0].mean()
        stage(
            f"distillation: {now.step} of {steps} steps, divergence {-100 * gain:+.1f}% on the held-out windows, "
            f"about {duration(round(left))} left"
        )
        if clock - saved > SAVED_EVERY:
            _save(path, now)
            saved = clock

    state = train(student, range(split), range(split, split + count), recipe, state, report)
    found: dict[str, Any] = {HELD_OUT_KEY: state.held_out}
    if is_better(state.held_out, CONFIDENCE):
        for trainable, data in zip(trainables, student.stored(state.best), strict=True):
            found |= {str(step): data.reshape(-1).view(np.uint8) for step in trainable.steps}
    return found


def _save(path: Path, state: Any) -> None:
    arrays = {name: getattr(state, name).numpy() for name in ("deltas", "mean", "square", "best")}
    write_tensors(path, {**arrays, "held_out": state.held_out, "step": np.array([state.step])}, durable=False)


def _load(path: Path, size: int) -> Any:
    """Return the state of an interrupted training; None if there is none, or the file is damaged."""
    import torch

    from autotune.distillation.training import State

    if not path.is_file():
        return None
    try:
        arrays = read_tensors(path, mapped=False)
        tensors = {name: torch.from_numpy(arrays[name].copy()) for name in ("deltas", "mean", "square", "best")}
        state = State(step=int(arrays["step"][0]), held_out=arrays["held_out"].copy(), **tensors)
    except DAMAGE:
        return None
    return state if state.deltas.numel() == size else None


def _replace(contents: Iterable[tuple[ov.Node, npt.NDArray[np.uint8]]]) -> None:
    """Put new bytes into constants."""
    for old, data in contents:
        new = constant(data, tuple(old.get_output_shape(0)), type_name(old))
        name = old.get_friendly_name()
        old.set_friendly_name(f"{name}/before")
        new.set_friendly_name(name)
        for target in old.output(0).get_target_inputs():
            target.replace_source_output(new.output(0))
