"""Scores that were measured before: what one evaluator told of one plan, kept on disk for every later study."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.evaluation import Example, Measurement
from autotune.files import atomic_write, fingerprint

__all__ = ["Recorded", "ScoreStore"]

_log = logging.getLogger(__name__)

DAMAGE = (ValueError, KeyError, TypeError, OSError)
"""What a file that is not whole raises when it is read."""


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
