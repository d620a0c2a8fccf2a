"""The command line: help, listings, exit codes, and one clear message for whatever is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from autotune.cli.app import app, run

GOOD = """\
model: model
output: study
calibration: {path: text.txt, samples: 4, sequence_length: 16}
space: quick
evaluators:
  perplexity: {path: text.txt, sequence_length: 16}
study: {trials: 3}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a text and a cache of its own, and the current one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "text.txt").write_text("A text of a few words. " * 40)
    (tmp_path / "empty.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_codebook_that_cannot_be_read_is_a_wrong_word(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a sentence that names the option and the file; a table that no mode uses is refused, too."""
    assert run(["compress", "model", "out", "--mode", "codebook", "--codebook", "nowhere.npy"]) == 2
    assert "--codebook: no such file: nowhere.npy" in capsys.readouterr().err
    assert run(["compress", "model", "out", "--mode", "codebook"]) != 0
    assert "--codebook: must be a table of 2 to 256 numbers" in capsys.readouterr().err
    assert run(["compress", "model", "out", "--mode", "nf4", "--codebook=-1,0,1"]) != 0
    assert "--codebook: nf4 has fixed levels" in capsys.readouterr().err


WRONG = {
    "unknown key": ("study: {trials: 3}", "stduy: {trials: 3}", ["stduy", "study"]),
    "unknown key inside": ("samples: 4", "sample: 4", ["calibration.sample", "samples"]),
    "wrong type": ("trials: 3", "trials: many", ["study.trials", "whole number"]),
    "no trials": ("trials: 3", "trials: 0", ["study.trials"]),
    "negative seed": ("trials: 3", "trials: 3, seed: -1", ["study.seed"]),
    "unknown sampler": ("trials: 3", "trials: 3, sampler: tpee", ["study.sampler", "tpe"]),
    "bad timeout": ("trials: 3", "trials: 3, timeout: soon", ["study.timeout"]),
    "missing text": ("path: text.txt, samples", "path: nothing.txt, samples", ["calibration.path", "nothing.txt"]),
    "empty text": ("path: text.txt, samples", "path: empty.txt, samples", ["calibration.path", "empty.txt"]),
    "folder as text": ("path: text.txt, samples", "path: model, samples", ["calibration.path"]),
    "no samples": ("samples: 4", "samples: 0", ["calibration.samples"]),
    "bad preset": ("space: quick", "space: quik", ["space", "quick"]),
    "group size 0": ("space: quick", "space: {mode: int4_asym, group_size: [0, 64]}", ["group_size", "0"]),
    "negative ratio": ("space: quick", "space: {mode: int4_asym, ratio: -0.5}", ["ratio", "-0.5"]),
    "ratio above 1": ("space: quick", "space: {mode: int4_asym, ratio: [0.5, 1.5]}", ["ratio", "1.5"]),
    "unknown mode": ("space: quick", "space: {mode: int4_asm}", ["mode", "int4_asym"]),
    "no choices": ("space: quick", "space: {mode: []}", ["mode"]),
    "int8 with ratio": ("space: quick", "space: {mode: int8_asym, ratio: 0.5}", ["ratio"]),
    "unknown evaluator": ("  perplexity:", "  perplexty:", ["evaluators.perplexty", "perplexity"]),
    "unknown option": ("sequence_length: 16}\nstudy", "sequence_lenght: 16}\nstudy", ["sequence_lenght"]),
    "unknown objective": ("space: quick", "space: quick\nobjectives: {kl_divergense: minimize}", ["kl_divergence"]),
    "wrong direction": ("space: quick", "space: quick\nobjectives: {footprint: smaller}", ["footprint", "minimize"]),
    "bad constraint": ("space: quick", "space: quick\nconstraints: {footprint: small}", ["constraints.footprint"]),
    "no such model": ("model: model", "model: ./nowhere", ["model", "nowhere"]),
    "syntax": ("space: quick", "space: [quick", ["model.yaml"]),
}


@pytest.mark.parametrize(("good", "bad", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_gives_one_clear_message(
    folder: Path, capsys: pytest.CaptureFixture[str], good: str, bad: str, message: list[str]
) -> None:
    """Exit code 2 and one paragraph with file, line and key; no traceback, no work."""
    text = GOOD.replace(good, bad, 1)
    assert text != GOOD
    (folder / "model.yaml").write_text(text)
    assert run(["search", "model.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert re.search(r"model\.yaml:\d+: ", err)
    for part in message:
        assert part in err
    assert not (folder / "study").exists()
    assert not (folder / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch", "model.yaml"], "serch"),
        (["search", "nowhere.yaml"], "autotune init"),
        (["compress", "model", "text.txt"], "text.txt"),
        (["compress", "model", "out", "--mode", "int5"], "--mode"),
        (["compress", "model", "out", "--mode", "int8_asym", "--ratio", "0.5"], "--ratio"),
        (["compress", "./nowhere", "out"], "nowhere"),
        (["compress", "model", "out", "--max-size", "1 MB"], "--text"),
        (["compress", "model", "out", "--max-size", "small", "--text", "text.txt"], "--max-size"),
        (["compress", "model", "out", "--max-size", "1 MB", "--text", "text.txt", "--gptq"], "--gptq"),
        (["compress", "model", "out", "--max-size", "1 MB", "--text", "nowhere.txt"], "nowhere.txt"),
        (["compress", "model", "out", "--allow", "int2"], "--max-size"),
        (["compress", "model", "out", "--no-runtime-compressed"], "--max-size"),
        (["compress", "model", "out", "--max-size", "1 MB", "--text", "text.txt", "--allow", "int5"], "int5"),
        (["compress", "model", "out", "--max-size", "1 MB", "--text", "t", "--allow", "int3"], "--no-runtime"),
        (["evaluate", "model"], "--reference"),
        (["evaluate", "model", "--reference", "model", "--evaluators", "perplexty"], "perplexity"),
        (["cache", "clean"], "clean"),
        (["export", "study", "out", "--knee", "--trial", "1"], "--knee"),
        (["search", "model.yaml", "--set", "study.trails=3"], "trials"),
    ],
)
def test_a_wrong_command_line_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit code 2, and what is wrong is named."""
    (folder / "model.yaml").write_text(GOOD)
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_suggestion_is_made_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line library and click both add it."""
    assert run(["serch", "model.yaml"]) == 2
    assert capsys.readouterr().err.count("Did you mean 'search'?") == 1


def test_init_names_paths_from_the_files_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Model and texts are found wherever the file is written; a text that is not there is refused."""
    from autotune.config.config import load_config

    monkeypatch.chdir(folder)
    (folder / "own").mkdir()
    (folder / "own" / "config.json").write_text("{}")
    (folder / "mine.txt").write_text("Some words.\n")
    (folder / "deep").mkdir()
    assert run(["init", "own", "-o", "deep/model.yaml", "--text", "mine.txt", "--calibration", "synthetic"]) == 0
    config = load_config(folder / "deep" / "model.yaml")
    assert config.model == str(folder / "own")
    assert config.evaluators["perplexity"]["path"] == str(folder / "mine.txt")
    assert config.calibration.synthetic
    assert run(["init", "own", "-o", "other.yaml", "--text", "nowhere.txt"]) == 2
    assert "--text nowhere.txt: no such file" in capsys.readouterr().err


def test_init_writes_a_file_and_never_over_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The written file is YAML for the model; a second init is refused."""
    assert run(["init", "HuggingFaceTB/SmolLM2-135M"]) == 0
    assert yaml.safe_load((folder / "model.yaml").read_text())["model"] == "HuggingFaceTB/SmolLM2-135M"
    assert run(["init", "HuggingFaceTB/SmolLM2-135M"]) == 2
    assert "model.yaml" in capsys.readouterr().err


def test_listings_have_a_form_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """spaces, evaluators, cache and schema print JSON with the available names."""
    found = {}
    for name in ("spaces", "evaluators", "cache"):
        assert run([name, "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert {"quick", "int4", "full"} <= {preset["name"] for preset in found["spaces"]}
    assert {"similarity", "perplexity"} <= set(found["evaluators"])
    assert found["cache"]["directory"] == str(folder / "cache")
    assert run(["schema"]) == 0
    assert "calibration" in json.loads(capsys.readouterr().out)["properties"]


def test_help_is_light() -> None:
    """`autotune --help` imports none of the packages that take long to import."""
    code = (
        "import sys\nfrom autotune.cli.app import run\nrun(['--help'])\n"
        "heavy = {'openvino', 'torch', 'transformers', 'optuna', 'pandas', 'matplotlib', 'datasets', 'optimum'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "search" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_under_the_output_is_named() -> None:
    """With exit code 1 and one sentence."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "autotune", "spaces"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("autotune: a file or the output of this command cannot be read or written (No space")
    assert len(done.stderr.splitlines()) == 1


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's --help exits with 0 and shows an example."""
    for command in app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert run([name, "--help"]) == 0
        usage, _, rest = capsys.readouterr().out.partition("Example:")
        assert "Usage:" in usage
        assert rest.split()[:2] == ["autotune", name]


def test_a_lost_network_is_called_that() -> None:
    """However deep a library wraps it, the reason is the network; any other error is its own first line."""
    from autotune.errors import reason

    wrapped = RuntimeError("Max retries exceeded with url: /api/models/x")
    wrapped.__cause__ = ConnectionError("[Errno -2] Name or service not known")
    assert reason(wrapped) == "the hub could not be reached"
    assert reason(ValueError("one thing.\nand another")) == "one thing"
    assert reason(ValueError()) == "ValueError"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["spaces"], ["schema"]])
def test_a_full_disk_under_stdout_is_no_defect(arguments: list[str]) -> None:
    """Short output fails when it is flushed, long output when it is printed; both in one line, with exit code 1."""
    command = [sys.executable, "-m", "autotune", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
