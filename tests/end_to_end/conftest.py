"""One real study of the tiny Llama, run once by the command line; the tests beside it look at what it left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from commands import Command, run_here, run_process
from demo_study import write_config
from once import built_once


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_llama_hf: Path) -> Path:
    """A folder with model.yaml and its texts, which tests may work in; its cache is the one that commands use."""
    folder = tmp_path_factory.mktemp("workplace")
    write_config(folder, tiny_llama_hf)
    return folder


@pytest.fixture(scope="session")
def run(workplace: Path) -> Command:
    """Runs `autotune ...` in the workplace or another folder, in this process."""

    def call(*arguments: str, folder: Path = workplace) -> CompletedProcess[str]:
        return run_here(folder, *arguments, cache=workplace / "cache")

    return call


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, workplace: Path, tiny_llama_hf: Path) -> CompletedProcess[str]:
    """The finished search, in a process of its own; its study and its cache are in the workplace."""

    def search(folder: Path) -> None:
        write_config(folder, tiny_llama_hf)
        done = run_process(folder, "search", "model.yaml", cache=folder / "cache")
        (folder / "done.json").write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))

    folder = built_once(tmp_path_factory, "searched", search)
    done = CompletedProcess(*json.loads((folder / "done.json").read_text()))
    assert done.returncode == 0, done.stderr
    for name in ("study", "cache"):
        shutil.copytree(folder / name, workplace / name, dirs_exist_ok=True)
    return done
