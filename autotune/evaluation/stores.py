"""Stores on disk, shared by processes and studies: references of original models, and scores of compressed ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.common.files import DAMAGE, atomic_write, fingerprint, locked, read_tensors, write_tensors
from autotune.common.version import __version__
from autotune.evaluation.protocol import Example, Measurement, PartedEvaluator

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.evaluation.protocol import Evaluator, LanguageModel, Reference

_log = logging.getLogger(__name__)

T = TypeVar("T")


def reference_key(
    name: str,
    evaluator: Evaluator,
    *,
    model_fingerprint: str,
    tokenizer_fingerprint: str,
    ov_config: Mapping[str, Any],
) -> str:
    """Return the key of a reference, which changes with everything that could change its numbers."""
    return fingerprint(name, evaluator.fingerprint(), *_original(model_fingerprint, tokenizer_fingerprint, ov_config))


def part_key(part: str, *, model_fingerprint: str, tokenizer_fingerprint: str, ov_config: Mapping[str, Any]) -> str:
    """Return the key of a part of a reference, given its `PartedEvaluator.part_key`."""
    return fingerprint("part", part, *_original(model_fingerprint, tokenizer_fingerprint, ov_config))


def _original(model_fingerprint: str, tokenizer_fingerprint: str, ov_config: Mapping[str, Any]) -> list[Any]:
    """Return everything outside an evaluator that could change the original's numbers."""
    versions = [__version__, version("openvino")]
    return [model_fingerprint, tokenizer_fingerprint, dict(ov_config), versions]


class ReferenceStore:
    """References of original models, one safetensors file for each key.

    A file is written atomically under a lock. Its checksum is verified when it is opened; a damaged file is computed
    again. Arrays are memory-mapped and read-only, so that worker processes share one copy in memory.

    Attributes:
        counters: ``created`` (computed now), ``reused`` (found on disk), ``damaged`` (found, but computed again).
    """

    def __init__(self, directory: Path) -> None:
        """Keep references in `directory`, which is created when the first one is written."""
        self.directory = directory
        self.counters = {"created": 0, "reused": 0, "damaged": 0}
        self._loaded: dict[str, Reference] = {}

    def get_or_create(self, key: str, create: Callable[[], Reference]) -> tuple[Reference, bool]:
        """Return (the reference of `key`, True if it was created now); only one process runs `create`."""
        if key in self._loaded:
            return self._loaded[key], False
        path = self.directory / f"{key}.safetensors"
        found = self._read(path)
        created = False
        if found is None:
            with locked(path):
                found = self._read(path)  # another process may have created it meanwhile
                if found is None:
                    self.counters["damaged"] += path.exists()
                    write_tensors(path, create())
                    found, created = read_tensors(path), True
        self.counters["created" if created else "reused"] += 1
        self._loaded[key] = found
        return found, created

    def _read(self, path: Path) -> Reference | None:
        return _read(path, read_tensors, "the cached reference %s is damaged (%s); it is computed again")


class PartedReference(Mapping[str, "npt.NDArray[Any]"]):
    """A reference whose parts are computed when one of their arrays is first used; see `PartedEvaluator`.

    It lists the names of the outline alone.
    """

    def __init__(self, outline: Reference, create: Callable[[int], Reference]) -> None:
        """Take the outline, and the function that reads or computes a part."""
        self._outline, self._create = outline, create
        self._parts: dict[int, Reference] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        part, slash, inner = name.partition("/")
        if not slash:
            return self._outline[name]
        number = int(part)
        if number not in self._parts:
            self._parts[number] = self._create(number)
        return self._parts[number][inner]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outline)

    def __len__(self) -> int:
        return len(self._outline)


def stored_reference(
    store: ReferenceStore,
    name: str,
    evaluator: Evaluator,
    open_original: Callable[[], AbstractContextManager[Callable[[], LanguageModel]]],
    inputs: Mapping[str, Any],
    stage: Callable[[str], None] = lambda message: None,
) -> Reference:
    """Read the reference of an evaluator from the store, or compute it.

    The parts of a `PartedEvaluator` are read or computed when they are first used, under a lock, for all processes.

    Args:
        store: keeps the reference, or its outline and its parts.
        name: of the evaluator.
        evaluator: computes what is missing.
        open_original: enters work on the original, and gives a function that compiles it when it is first called.
        inputs: keywords of `reference_key`.
        stage: receives progress messages.
    """

    def create(what: str, compute: Callable[[LanguageModel], Reference]) -> Callable[[], Reference]:
        def computed() -> Reference:
            with open_original() as original:
                model = original()
                stage(f"the original model's reference for {what}")
                return compute(model)

        return computed

    key = reference_key(name, evaluator, **inputs)
    if not isinstance(evaluator, PartedEvaluator):
        return store.get_or_create(key, create(name, evaluator.reference))[0]
    outline = store.get_or_create(key, create(name, evaluator.outline))[0]

    def part(number: int) -> Reference:
        compute = create(f"{name}, part {number + 1}", lambda model: evaluator.part(model, outline, number))
        return store.get_or_create(part_key(evaluator.part_key(outline, number), **inputs), compute)[0]

    return PartedReference(outline, part)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Scores of one model by one evaluator, after each stage (see `autotune.evaluation.StagedEvaluator`).

    Attributes:
        stages: metric -> measurement after each stage.
        complete: True if the last stage covers all texts; racing may have stopped before.
        digest: of the model's bytes, as `Engine.digest` returns it.
    """

    stages: Sequence[Mapping[str, Measurement]] = ()
    complete: bool = False
    digest: str = ""


class ScoreStore:
    """Scores of compressed models, one JSON file with its own checksum for each key.

    Stages keep the values behind their scores, so that a stored model is raced against any front like a new one.

    Attributes:
        counters: ``measured`` (evaluators that ran), ``reused`` (found complete enough), ``damaged`` (measured again).
    """

    def __init__(self, directory: Path) -> None:
        """Keep scores in `directory`, which is created when the first are written."""
        self.directory = directory
        self.counters = {"measured": 0, "reused": 0, "damaged": 0}

    def get(self, key: str) -> Recorded:
        """Return the scores of `key` (hex digits); without any stage if the file is missing or damaged."""
        path = self._path(key)
        found = _read(path, _read_scores, "the scores in %s are damaged (%s); they are measured again")
        self.counters["damaged"] += found is None and path.exists()
        return found or Recorded()

    def put(self, key: str, recorded: Recorded) -> None:
        """Store scores under `key`; of several writers the last one wins."""
        stages = [{name: asdict(measurement) for name, measurement in stage.items()} for stage in recorded.stages]
        scores = {"stages": stages, "complete": recorded.complete, "digest": recorded.digest}
        text = json.dumps({"scores": scores, "checksum": fingerprint(scores)})
        with atomic_write(self._path(key), durable=False) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.json"


def _read_scores(path: Path) -> Recorded:
    data = json.loads(path.read_text(encoding="utf-8"))
    scores = data["scores"]
    if fingerprint(scores) != data["checksum"]:
        raise ValueError("its checksum does not match")
    stages = [{name: _measurement(m) for name, m in stage.items()} for stage in scores["stages"]]
    return Recorded(stages, scores["complete"], scores["digest"])


def _measurement(data: Mapping[str, Any]) -> Measurement:
    examples = tuple(Example(**example) for example in data["examples"])
    return Measurement(**{**data, "values": tuple(data["values"]), "examples": examples})


def _read(path: Path, read: Callable[[Path], T], warning: str) -> T | None:
    """Read a file; return None if it is missing or, after a warning with path and reason, if it is damaged."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        _log.warning(warning, path, error)
        return None
