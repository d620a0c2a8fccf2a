"""Where the original model's answers are kept: one safetensors file for each evaluator, options and model.

Scores that were measured before: what one evaluator told of one plan, kept on disk for every later study.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import __version__
from autotune.common.files import DAMAGE, atomic_write, fingerprint, locked, read_tensors, write_tensors
from autotune.evaluation.protocol import Example, Measurement

if TYPE_CHECKING:
    from autotune.evaluation.protocol import Evaluator, Reference

__all__ = ["Recorded", "ReferenceStore", "ScoreStore", "reference_key"]

_log = logging.getLogger(__name__)


def reference_key(
    name: str,
    evaluator: Evaluator,
    *,
    model_fingerprint: str,
    tokenizer_fingerprint: str,
    ov_config: Mapping[str, Any],
) -> str:
    """The key of a reference: changes with anything that could change its numbers."""
    versions = [__version__, version("openvino")]
    return fingerprint(
        name, evaluator.fingerprint(), model_fingerprint, tokenizer_fingerprint, dict(ov_config), versions
    )


class ReferenceStore:
    """References on disk, shared by processes and studies.

    A file is written under a lock and appears in one step. Its checksum is verified when it is opened; a damaged file
    is computed again. What comes back is mapped from the file, not read: worker processes share one copy of it in
    memory, however large.

    Attributes:
        counters: ``created`` (computed now), ``reused`` (found on disk), ``damaged`` (found, but computed again).
    """

    def __init__(self, directory: Path) -> None:
        """Keep references in `directory`, which is created when the first one is written."""
        self.directory = directory
        self.counters = {"created": 0, "reused": 0, "damaged": 0}
        self._opened: dict[str, Reference] = {}

    def get_or_create(self, key: str, create: Callable[[], Reference]) -> tuple[Reference, bool]:
        """Return (the reference of `key`, was it created now?); `create` runs once, however many processes ask."""
        if key in self._opened:
            return self._opened[key], False
        path = self.directory / f"{key}.safetensors"
        found = self._open(path)
        if found is None:
            with locked(path):
                found = self._open(path)  # another process may have been faster
                if found is None:
                    return self._create(key, path, create), True
        self.counters["reused"] += 1
        self._opened[key] = found
        return found, False

    def _create(self, key: str, path: Path, create: Callable[[], Reference]) -> Reference:
        self.counters["damaged"] += path.exists()
        write_tensors(path, create())
        self.counters["created"] += 1
        reference = read_tensors(path)
        self._opened[key] = reference
        return reference

    def _open(self, path: Path) -> Reference | None:
        if not path.exists():
            return None
        try:
            return read_tensors(path)
        except DAMAGE as error:
            _log.warning("the cached reference %s is damaged (%s); it is computed again", path, error)
            return None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an evaluator told of one model, stage by stage; see `evaluation.StagedEvaluator`.

    Attributes:
        stages: metric -> measurement after each stage.
        complete: whether the last stage is that of all texts; a race may have ended before.
        digest: of the model's bytes, as `Engine.digest` gives it.
    """

    stages: Sequence[Mapping[str, Measurement]] = ()
    complete: bool = False
    digest: str = ""


class ScoreStore:
    """Scores on disk, shared by processes and studies: one JSON file with its own checksum for each key.

    Stages are kept with the values behind them, so that a model is raced against any front as if it were scored now.

    Attributes:
        counters: ``measured`` (evaluators that ran), ``reused`` (found complete enough), ``damaged`` (measured again).
    """

    def __init__(self, directory: Path) -> None:
        """Keep scores in `directory`, which is created when the first are written."""
        self.directory = directory
        self.counters = {"measured": 0, "reused": 0, "damaged": 0}

    def get(self, key: str) -> Recorded:
        """What is known under `key` (hex digits); nothing at all where the file is missing or damaged."""
        path = self._path(key)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if fingerprint(data["scores"]) != data["checksum"]:
                raise ValueError("its checksum does not match")
            scores = data["scores"]
            stages = [{name: _measurement(m) for name, m in stage.items()} for stage in scores["stages"]]
            return Recorded(stages, scores["complete"], scores["digest"])
        except FileNotFoundError:
            return Recorded()
        except DAMAGE as error:
            _log.warning("the scores in %s are damaged (%s); they are measured again", path, error)
            self.counters["damaged"] += 1
            return Recorded()

    def put(self, key: str, recorded: Recorded) -> None:
        """Keep scores under `key`; the file appears in one step, and the last of several writers stays."""
        stages = [{name: asdict(measurement) for name, measurement in stage.items()} for stage in recorded.stages]
        scores = {"stages": stages, "complete": recorded.complete, "digest": recorded.digest}
        text = json.dumps({"scores": scores, "checksum": fingerprint(scores)})
        with atomic_write(self._path(key), durable=False) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.json"


def _measurement(data: Mapping[str, Any]) -> Measurement:
    examples = tuple(Example(**example) for example in data["examples"])
    return Measurement(**{**data, "values": tuple(data["values"]), "examples": examples})
