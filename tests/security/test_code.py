"""No code runs that the user did not choose: canaries that write a file when they are imported or unpickled."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from autotune import api
from autotune.common.cache import Cache
from autotune.config.config import load_config, load_model_config
from autotune.errors import ConfigError, PrerequisiteError
from autotune.models import exporters
from autotune.models.source import resolve_model
from autotune.models.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "pickle.load",
    "pickle.Unpickler",
    "torch.load",
    "eval",
    "exec",
    "compile",
    "os.system",
    "yaml.load",
    "yaml.unsafe_load",
    "marshal.loads",
    "joblib.load",
    "numpy.fromregex",
}
"""Calls that run what a file says."""

ALLOWED = {"autotune/study/workers/messages.py: pickle.loads"}


def canary(folder: Path, marker: Path, *names: str) -> None:
    """Write Python files that leave `marker` when they are imported."""
    for name in names:
        (folder / name).write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")


class Payload:
    """Pickles to a call that writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_no_file_is_unpickled_or_executed() -> None:
    """The only unpickling is that of messages between the search and its own worker processes."""
    found = set()
    for path in (*(ROOT / "autotune").rglob("*.py"), *(ROOT / "evaluators").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = options.get("allow_pickle", "False") != "False" or "shell" in options
            if unsafe or name in FORBIDDEN or name.startswith(("pickle.load", "dill.")):
                found.add(f"{path.relative_to(ROOT).as_posix()}: {name}")
    assert found <= ALLOWED
    assert "autotune/study/workers/messages.py: pickle.loads" in found


@pytest.fixture
def remote(tiny_llama_hf: Path, tmp_path: Path) -> Path:
    """A model folder whose configuration, model and tokenizer name Python files of the folder."""
    folder = shutil.copytree(tiny_llama_hf, tmp_path / "remote")
    canary(folder, tmp_path / "ran", "configuration_evil.py", "modeling_evil.py", "tokenization_evil.py")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "configuration_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.EvilModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_code_of_a_model_needs_consent(remote: Path, tmp_path: Path) -> None:
    """Configuration, modeling file and tokenizer; with trust_remote_code the canary does run."""
    for model_type in ("evil", "llama"):  # also under the name of a type that transformers knows
        config = json.loads((remote / "config.json").read_text()) | {"model_type": model_type}
        (remote / "config.json").write_text(json.dumps(config))
        with pytest.raises((ConfigError, PrerequisiteError), match="trust_remote_code: true"):
            resolve_model(str(remote), cache=Cache(tmp_path / "cache"))
        with pytest.raises(PrerequisiteError, match="trust_remote_code: true"):
            load_tokenizer(remote, trust_remote_code=False)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception, match="EvilConfig"):
        exporters.load_config(remote, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickled_checkpoint_is_read_without_running_it(tiny_llama_hf: Path, tmp_path: Path, zipped: bool) -> None:
    """pytorch_model.bin of both formats: tensors only, anything else is refused."""
    import torch

    folder = shutil.copytree(tiny_llama_hf, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    payload = {"model.norm.weight": Payload(tmp_path / "ran")}
    torch.save(payload, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match="which may run code"):
        resolve_model(str(folder), cache=Cache(tmp_path / "cache"))
    assert not (tmp_path / "ran").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_an_embedder_runs_no_code_of_its_folder(tmp_path: Path) -> None:
    """modules.json of sentence-transformers may name a class of the folder."""
    from evaluators._embedder import embed

    folder = tmp_path / "embedder"
    folder.mkdir()
    canary(folder, tmp_path / "ran", "evil.py")
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PrerequisiteError, match="could not be loaded"):
        embed(str(folder), ["text"])
    assert not (tmp_path / "ran").exists()


def test_the_current_folder_is_no_place_for_modules(tmp_path: Path, tiny_llama: Path) -> None:
    """Modules and entry points beside model.yaml: neither the command nor the process of `latency` imports them."""
    from evaluators.latency import Latency

    here, marker = tmp_path / "here", tmp_path / "ran"
    (here / "evil-1.0.dist-info").mkdir(parents=True)
    (here / "evil-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (here / "evil-1.0.dist-info" / "entry_points.txt").write_text("[autotune.evaluators]\nevil = evil:Evil\n")
    canary(here, marker, "evil.py", "json.py", "openvino.py", "optuna.py", "sitecustomize.py")
    # A console script has its own folder in front of the path, as -P does without the script.
    command = [sys.executable, "-P", "-c", "from autotune.cli.app import main; main()", "evaluators", "--json"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "AUTOTUNE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert "perplexity" in done.stdout
    assert "evil" not in done.stdout
    before = Path.cwd()
    os.chdir(here)
    try:
        with Latency(prompt_tokens=4, new_tokens=4)._worker(tiny_llama / "openvino_model.xml") as measure:
            assert len(measure()) == 3
    finally:
        os.chdir(before)
    assert not marker.exists()


def test_a_studys_folder_chooses_no_code(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, fake: Any
) -> None:
    """`report` does not read model.yaml; `export` reads it without importing its evaluators; `search` imports them.

    A task, which `export` needs, is imported by both.
    """
    marker, study = tmp_path / "ran", tmp_path / "study"
    study.mkdir()
    canary(tmp_path, marker, "evil_evaluator.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    (study / "model.yaml").write_text(f"model: {tiny_llama}\nevaluators: {{'evil_evaluator:Evil': {{}}}}\n")
    fake.build(f"sqlite:///{study / 'study.db'}", trials=3, config={"evaluators": {"evil_evaluator:Evil": {}}})
    api.load_study(study).to_html(tmp_path / "report.html")
    assert load_model_config(study / "model.yaml").model == str(tiny_llama)
    with pytest.raises(Exception, match="plan"):
        api.load_study(study).export(tmp_path / "out", trial=0)
    assert not marker.exists()
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_config(study / "model.yaml")
    assert marker.exists()
    canary(tmp_path, tmp_path / "task", "evil_task.py")
    (study / "model.yaml").write_text(f"model: {tiny_llama}\ntask: evil_task:TASK\n")
    api.load_study(study).to_html(tmp_path / "report.html")
    assert not (tmp_path / "task").exists()
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_model_config(study / "model.yaml")
    assert (tmp_path / "task").exists()


def test_arrays_of_the_cache_are_no_pickles(tmp_path: Path) -> None:
    """A pickle under the name of a cache entry, a plan or a codebook is damage, not data."""
    from autotune.common.files import DAMAGE, read_tensors
    from autotune.compression.formats.table import read_codebook
    from autotune.results.plans import read_plan

    content = pickle.dumps(Payload(tmp_path / "ran"))
    readers: dict[str, tuple[Callable[[Path], Any], tuple[type[Exception], ...]]] = {
        "entry.safetensors": (read_tensors, DAMAGE),
        "levels.npy": (read_codebook, (ValueError,)),
    }
    for name, (reader, errors) in readers.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(errors):
            reader(tmp_path / name)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "key.json").write_bytes(content)
    assert read_plan(tmp_path, "key") is None
    assert not (tmp_path / "ran").exists()


def test_the_xml_of_a_model_expands_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    """Entities that would fill the memory, and external ones, are refused or stay names."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    doctype = f'<!DOCTYPE net [<!ENTITY e0 "{"x" * 100}">{bomb}<!ENTITY out SYSTEM "file:///etc/passwd">]>'
    text = (folder / "openvino_model.xml").read_text()
    start = text.index("<net")
    named = text[start:].replace('<net name="', '<net name="&e11;&out;', 1)
    (folder / "openvino_model.xml").write_text(f"{text[:start]}{doctype}{named}")
    model = ov.Core().read_model(folder / "openvino_model.xml")
    assert len(model.friendly_name) < 200
    assert "root:" not in model.friendly_name
