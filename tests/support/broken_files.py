"""Flipped bits and truncations in the files that autotune reads back."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from autotune.common.cache import Cache
from autotune.common.files import DAMAGE, read_tensors
from autotune.compression.calibration.statistics import Statistics
from autotune.errors import AutotuneError, CompressionError
from autotune.evaluation.stores import ScoreStore
from autotune.models.source import SourceModel, _is_as_exported, resolve_model
from autotune.results.load import STUDY_NAME, load_results
from autotune.study.storage.database import close, connect, database_url

__all__ = ["PROBES", "Unnoticed", "damage", "make_study", "try_file"]

DEMO = Path(__file__).parents[2] / "examples" / "demo"
CONFIG = f"""\
model: {DEMO}/model
output: study
calibration: {{path: {DEMO}/calibration.txt, samples: 8, sequence_length: 64}}
space: {{allocation: [budget, ratio], budget: [4.5, 6.0], mode: [int8_asym, int4_asym], group_size: [32, 64],
  ratio: [0.8, 1.0], sensitivity_metric: hessian_input_activation, gptq: [false, true]}}
evaluators: {{perplexity: {{path: {DEMO}/search.txt, sequence_length: 64, samples: 16}}}}
study: {{trials: 6, workers: 0}}
"""


class Unnoticed(Exception):
    """Damage that was read as if it were data, or that ended in something else than a clear error."""


def arrays(file: Path, folder: Path) -> Any:
    try:
        return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in read_tensors(file).items()}
    except DAMAGE:
        return None


def scores(file: Path, folder: Path) -> Any:
    found = ScoreStore(file.parent).get(file.stem)
    return found if found.stages else None


def statistics(file: Path, folder: Path) -> Any:
    try:
        found = Statistics.open(file.parent, "key")
    except CompressionError:
        return None
    return [found.tokens, found.depth, found._index["activations"]]


def exported(file: Path, folder: Path) -> Any:
    model = next(path for path in file.parents if path.parent.name == "models")
    return True if _is_as_exported(SourceModel("m", model)) else None


def study(file: Path, folder: Path) -> Any:
    """Read what decides in a study, attributes, parameters, values and states, as `report` and `search` do."""
    load_results(folder / "study")
    storage = connect(database_url(file))
    try:
        stored = optuna.load_study(study_name=STUDY_NAME, storage=storage)
        trials = [(t.number, t.params, t.values, t.state.name, t.user_attrs) for t in stored.get_trials(deepcopy=False)]
        return json.dumps([stored.user_attrs, trials], sort_keys=True)
    finally:
        close(storage)


def deployed(file: Path, folder: Path) -> Any:
    return resolve_model(str(file.parent), cache=Cache(folder / "cache")).fingerprint


@dataclass(frozen=True)
class Probe:
    """Files of a kind, and their reader: it returns the content, or None if it is computed again."""

    pattern: str
    read: Callable[[Path, Path], Any]


PROBES = {
    "compressed weights": Probe("cache/bank/*/*.safetensors", arrays),
    "references": Probe("cache/references/*.safetensors", arrays),
    "stored scores": Probe("cache/references/scores/*.json", scores),
    "statistics": Probe("cache/statistics/*/*.*", statistics),
    "exported model": Probe("cache/models/*/*.*", exported),
    "study storage": Probe("study/study.db", study),
    "deployed model": Probe("export/openvino_model.*", deployed),
}


def make_study(folder: Path) -> None:
    """Search and export the demo model into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(CONFIG, encoding="utf-8")
    environment = {**os.environ, "AUTOTUNE_CACHE": str(folder / "cache")}
    for words in (("search", "model.yaml"), ("export", "study", "export", "--knee")):
        command = [sys.executable, "-m", "autotune", *words]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    (folder / "complete").touch()


def damage(content: bytes, how: str, dice: random.Random) -> bytes:
    """Flip one bit, or cut the end off."""
    if how == "truncation":
        return content[: dice.randrange(len(content))]
    data = bytearray(content)
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def try_file(kind: str, folder: Path, how: str, dice: random.Random) -> str:
    """Damage one file of a kind, read it as autotune does, and restore it.

    Returns:
        ``recomputed``, ``refused``, or ``same`` where the damage changes nothing that is read.

    Raises:
        Unnoticed: the damage was used, or raised something else than a clear error.
    """
    probe = PROBES[kind]
    file = dice.choice(sorted(path for path in folder.glob(probe.pattern) if path.is_file() and path.stat().st_size))
    expected, original = probe.read(file, folder), file.read_bytes()
    if expected is None:
        raise Unnoticed(f"{file.name} is damaged before it is")
    try:
        file.write_bytes(damage(original, how, dice))
        found = probe.read(file, folder)
    except AutotuneError as error:
        if not any(str(path) in str(error) for path in (file, file.parent)):
            raise Unnoticed(f"refused without the name of {file.name}: {error}") from error
        return "refused"
    except Exception as error:
        raise Unnoticed(f"{file.name}: {type(error).__name__}: {str(error)[:200]}") from error
    finally:
        for side in ("-journal", "-wal", "-shm"):
            file.with_name(file.name + side).unlink(missing_ok=True)
        file.write_bytes(original)
    if found is not None and found != expected:
        raise Unnoticed(f"{file.name}: the damage was used")
    return "recomputed" if found is None else "same"
