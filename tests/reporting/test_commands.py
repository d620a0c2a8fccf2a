"""Commands that autotune prints run as they are pasted; the peers' calls exist and mean the same."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import shlex
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from commands import run

from autotune.compression.settings import Settings
from autotune.reporting.text.commands import export_command, nncf_call, optimum_command
from autotune.reporting.text.places import relative_path, shown
from autotune.results.load import load_results

SHARED = [
    Settings(mode="int8_asym"),
    Settings(mode="int8_sym"),
    Settings(mode="int4_asym", group_size=64),
    Settings(mode="int4_sym", group_size=-1, ratio=0.8, sensitivity_metric="max_activation_variance"),
    Settings(mode="nf4", group_size=32, awq=True, scale_estimation=True, gptq=True, all_layers=True),
    Settings(mode="int4_asym", lora_correction=True, backup_mode="none"),
]


@pytest.mark.parametrize("settings", SHARED, ids=str)
def test_nncf_takes_the_call(settings: Settings) -> None:
    """Every name in it exists, and the signature takes the arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = pytest.importorskip("nncf")
        importlib.import_module("nncf.quantization.advanced_parameters")

    signature = inspect.signature(nncf.compress_weights)
    arguments: list[Any] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(nncf, name)

        def compress_weights(self, *given: Any, **named: Any) -> None:
            arguments.append(signature.bind(*given, **named).arguments)

    call = nncf_call(settings.as_dict()).call
    assert call is not None
    eval(call, {"nncf": Recorder(), "model": None, "dataset": None})
    (bound,) = arguments
    assert bound["mode"].name.lower() == settings.mode
    if not settings.mode.startswith("int8"):
        assert bound["group_size"] == settings.effective_group_size
        assert bound["ratio"] == settings.ratio
        assert bound.get("gptq", False) == settings.gptq
        assert ("dataset" in bound) == settings.needs_calibration


@pytest.mark.parametrize("settings", SHARED, ids=str)
def test_optimum_cli_takes_the_command(settings: Settings) -> None:
    """Its own parser reads every option."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openvino = pytest.importorskip("optimum.commands.export.openvino")
    parser = argparse.ArgumentParser()
    openvino.parse_args_openvino(parser)
    command = optimum_command("org/model", settings.as_dict()).call
    assert command is not None
    words = shlex.split(command)
    assert words[:3] == ["optimum-cli", "export", "openvino"]
    parsed = parser.parse_args(words[3:])
    assert parsed.model == "org/model"
    assert bool(parsed.sym) == settings.mode.endswith("_sym")
    assert bool(parsed.gptq) == settings.gptq


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "mxfp4"}, "stores mxfp4"),
        ({"mode": "int4_sym", "ratio": 0.0}, "ratio 0 as 1"),
        ({"mode": "int4_sym", "ratio": 0.5, "sensitivity_metric": "output_error"}, "output_error"),
        ({"budget": 3.5}, "one by one"),
    ],
)
def test_where_there_is_none_the_reason_is_said(settings: dict[str, Any], message: str) -> None:
    """No call, but why not."""
    for found in (nncf_call(settings), optimum_command("m", settings)):
        assert found.call is None
        assert message in found.note


@pytest.fixture
def project(fake: ModuleType, tmp_path: Path) -> Path:
    """A folder with a model, a calibration text and a study, as a search that was started in it leaves them."""
    root = tmp_path / "my project"
    (root / "models" / "small llama").mkdir(parents=True)
    (root / "text file.txt").write_text("Some words.")
    study = root / "reports" / "int4's"
    study.mkdir(parents=True)
    config = {
        "model": str(root / "models" / "small llama"),
        "output": str(study),
        "calibration": {"path": str(root / "text file.txt"), "samples": 8, "sequence_length": 64},
    }
    fake.build(f"sqlite:///{study / 'study.db'}", trials=24, config=config)
    return root


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The output folders of `compress` and `export`, which find their inputs but build no model."""
    from autotune import api
    from autotune.results.front.selection import choose

    outputs: list[Path] = []
    saved: Any = SimpleNamespace(as_dict=dict, settings=None)

    def compress(model: str, *, output: Path, calibration: str | None, **_: Any) -> Any:
        assert Path(model).is_dir()
        assert calibration is None or Path(calibration).is_file()
        outputs.append(output.absolute())
        return SimpleNamespace(saved=saved)

    def export(folder: Path, out: Path, *, wish: Any, storage: str | None, **_: Any) -> Any:
        choose(load_results(folder, storage), wish)
        outputs.append(out.absolute())
        return saved

    monkeypatch.setattr(api, "compress", compress)
    monkeypatch.setattr("autotune.study.export.export", export)
    for name in ("print_saved", "print_equivalents"):
        monkeypatch.setattr(f"autotune.cli.results.{name}", lambda _: None)
    monkeypatch.setattr("autotune.cli.compress.print_saved", lambda _: None)
    return outputs


def printed_commands(text: str) -> list[str]:
    """Return the lines and code elements of a text that are commands."""
    from html import unescape

    codes = re.findall(r"<code>(autotune [^<]*)</code>", text)
    lines = [line.removeprefix("next:").strip() for code in [*codes, text] for line in unescape(code).splitlines()]
    return [line for line in lines if re.match(r"autotune [a-z]+ ", line) and "<" not in line]


def test_every_printed_command_runs_where_it_is_pasted(
    project: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands on stdout run in the same shell; those of the files run in the study's folder and name no other."""
    monkeypatch.chdir(project)
    assert run(["report", "reports/int4's"]) == 0
    (command,) = printed_commands(capsys.readouterr().out)
    assert str(project) not in command
    assert run(shlex.split(command)[1:]) == 0
    knee = load_results(project / "reports" / "int4's").knee
    assert built == [project / "reports" / "int4's" / "models" / f"trial-{knee}"]

    monkeypatch.chdir(project / "reports" / "int4's")
    for name in ("report.md", "report.html"):
        text = (project / "reports" / "int4's" / name).read_text(encoding="utf-8")
        assert str(project.parent) not in text
        commands = printed_commands(text)
        assert any("autotune export" in each for each in commands)
        assert any("autotune compress" in each for each in commands)
        for each in commands:
            assert run(shlex.split(each)[1:]) == 0, (each, capsys.readouterr().err)
    assert {path.parent for path in built} == {project / "reports" / "int4's" / "models"}


def test_a_moved_study_names_its_new_folder(project: Path) -> None:
    """Commands name the folder that was read, not the one that the search wrote."""
    moved = (project / "reports" / "int4's").rename(project / "moved")
    results = load_results(moved)
    assert shlex.split(export_command(results, 3))[2:4] == [".", "models/trial-3"]
    assert shlex.split(export_command(results, 3, here=project))[2] == "moved"
    assert shlex.split(export_command(results, 3, here=project / "models"))[2] == str(moved)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/ann/work/models/m", "../../models/m"),
        ("/home/ann/work/reports/s/text.txt", "text.txt"),
        ("/home/bob/models/m", None),
        ("/data/m", None),
        ("org/model", "org/model"),
    ],
)
def test_a_relative_path_names_no_folder_near_the_root(path: str, expected: str | None) -> None:
    """A path is shown from the study's folder on, or not at all."""
    folder = Path("/home/ann/work/reports/s")
    assert relative_path(path, folder) == expected
    listed = shown({"text": [path, 3]}, folder)["text"]
    assert listed == [f"…/{Path(path).name}" if expected is None else expected, 3]


def test_a_password_is_not_repeated(project: Path) -> None:
    """A study at a URL needs --storage; its password is left out, and a comment says so."""
    from dataclasses import replace

    results = replace(load_results(project / "reports" / "int4's"), storage="postgresql://ann:secret@host/study")
    command = export_command(results, 3)
    assert "secret" not in command
    assert shlex.split(command, comments=True)[-2:] == ["--storage", "postgresql://ann:PASSWORD@host/study"]
    file = f"sqlite:///{project}/all.db"
    assert export_command(replace(results, storage=file), 3).endswith("--storage sqlite:///../../all.db")
    assert "/nfs" not in export_command(replace(results, storage="sqlite:////nfs/ann/all.db"), 3)
