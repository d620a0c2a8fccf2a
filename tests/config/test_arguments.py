"""A configuration from a file, a mapping, or a model; and the files that `init` writes by options."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.compression.settings import EFFORTS, SETTINGS, Settings
from autotune.config.arguments import as_config, config_file, read_settings
from autotune.config.config import load_config
from autotune.config.space.presets import read_space
from autotune.config.starter import init
from autotune.errors import PrerequisiteError, UsageError

TEXT = "Some words.\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two models of the same short name."""
    for name in ("llama", "other/llama"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_gets_a_file_once(place: Path) -> None:
    """The first search writes NAME.yaml, the second uses it with the user's changes; a note says so."""
    notes: list[str] = []
    config = as_config("llama", ["study.trials=5"], note=notes.append)
    assert (config.model, config.output) == (str(place / "llama"), place / "reports" / "llama")
    assert config.study.trials == 5
    file = place / "llama.yaml"
    assert "`autotune search llama.yaml` runs it" in file.read_text()
    file.write_text(file.read_text().replace("seed: 0", "seed: 9"))
    for name in ("llama", "./llama", str(place / "llama")):
        assert as_config(name, note=notes.append).study.seed == 9
    assert "is written with the defaults of `autotune init`" in notes[0]
    assert "exists already" in notes[1]


def test_a_file_of_another_model_is_not_used(place: Path) -> None:
    """Nor written over; the command in the message works."""
    config_file("llama", lambda text: None)
    before = (place / "llama.yaml").read_text()
    with pytest.raises(UsageError, match=r"autotune init other/llama -o FILE\.yaml"):
        config_file("other/llama", lambda text: None)
    assert (place / "llama.yaml").read_text() == before
    assert load_config(init("other/llama", "second.yaml")).model == str(place / "other" / "llama")


def test_what_is_neither_file_nor_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing path, a study's folder, and a name that the hub does not have; nothing is written."""
    (place / "study").mkdir()
    (place / "study" / "study.db").write_text("")
    with pytest.raises(UsageError, match="no such folder"):
        config_file("./nowhere", print)
    with pytest.raises(UsageError, match=r"name its file: study/model\.yaml"):
        config_file("study", print)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PrerequisiteError, match="owner/name"):
        config_file("owner/name", print)
    assert not list(place.glob("*.yaml"))


def test_all_paths_have_one_origin(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved with its texts and read from anywhere, a file means the same; options start from the current folder."""
    (place / "text.txt").write_text(TEXT)
    (place / "space.yaml").write_text("mode: nf4\n")
    file = init(
        "llama", "model.yaml", space="./space.yaml", text="text.txt", calibration="text.txt", prompts="text.txt"
    )
    file.write_text(file.read_text().replace("directory: null", "directory: cache"))
    moved = place / "moved"
    moved.mkdir()
    for name in ("llama", "text.txt", "space.yaml", "model.yaml"):
        shutil.move(place / name, moved / name)
    monkeypatch.chdir(place / "other")
    config = load_config(moved / "model.yaml")
    assert config.cache.directory is not None
    paths = [config.model, config.output, config.calibration.path, config.cache.directory]
    paths += [config.evaluators["perplexity"]["path"], config.evaluators["similarity"]["prompts"]]
    assert all(Path(str(path)).is_relative_to(moved) for path in paths)
    relative = os.path.relpath(moved / "model.yaml")
    assert as_config(relative) == config
    assert as_config(relative, output="out").output == place / "other" / "out"


def test_init_takes_space_limits_and_evaluators(place: Path) -> None:
    """The file has them, and loads; what a search would refuse is refused here, before a file is written."""
    file = init("llama", space="budget", trials=7, max_size="1.5 GB", evaluators=["latency", "perplexity"])
    config = load_config(file)
    assert (config.space.name, config.study.trials, list(config.evaluators)) == ("budget", 7, ["latency", "perplexity"])
    assert config.constraints["footprint"].value == 1.5e9
    file = init("llama", "alone.yaml", evaluators=["similarity"], max_size=10**9)
    assert load_config(file).objectives == {"similarity": "maximize", "footprint": "minimize"}
    wrong = {
        "unknown preset 'int5'": {"space": "int5"},
        "`max_size`": {"max_size": "1.5"},
        "tasks": {"evaluators": ["lm_eval"]},
        "Did you mean latency": {"evaluators": ["latncy"]},
        "at least 1": {"trials": 0},
        "no such file": {"text": "nowhere.txt"},
    }
    for message, arguments in wrong.items():
        with pytest.raises(UsageError, match=message):
            init("llama", "wrong.yaml", **arguments)  # type: ignore[arg-type]
    assert not (place / "wrong.yaml").exists()


def test_effort_turns_switches_on() -> None:
    """Those that the mode takes and that contradict no other setting; a space keeps what it fixes."""
    four, eight = Settings(mode="int4_asym"), Settings()
    assert four.with_effort("fast") == four
    assert four.with_effort("best") == replace(four, gptq=True, scale_estimation=True)
    assert four.with_effort("extreme") == replace(four, gptq=True, scale_estimation=True, distillation=True)
    assert eight.with_effort("best") == eight
    assert eight.with_effort("extreme") == replace(eight, distillation=True)
    adapters = replace(four, lora_correction=True)
    assert adapters.with_effort("best") == replace(adapters, scale_estimation=True)

    given = {"mode": "int4_asym", "gptq": [False, True], "scale_estimation": False}
    space = read_space(given, base_dir=Path()).with_effort("extreme")
    assert [space.values(name) for name in EFFORTS["extreme"]] == [(True,), (False,), (False, True)]
    assert space.with_effort("extreme") == space
    assert read_space(given, base_dir=Path()).with_effort("fast") == read_space(given, base_dir=Path())


def test_effort_is_checked() -> None:
    text = {"calibration": ["a text"], "max_size": None}
    defaults = {name: info.default if info.kind != "list" else () for name, info in SETTINGS.items()}
    assert read_settings({**defaults, **text, "effort": "extreme"}).distillation
    sized = read_settings({**defaults, **text, "max_size": 10, "effort": "extreme"})
    assert sized == Settings(distillation=True)
    with pytest.raises(UsageError, match="one of fast, best, extreme"):
        read_settings({**defaults, **text, "effort": "slow"})
    with pytest.raises(UsageError, match="add `calibration`"):
        read_settings({**defaults, **text, "calibration": None, "effort": "best"})
