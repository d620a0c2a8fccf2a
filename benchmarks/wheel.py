"""Build sdist and wheel, check what is in them, and go a new user's way with the wheel in an environment of its own.

    python benchmarks/wheel.py
    python benchmarks/wheel.py --model my-model --texts my-texts --trials 24

The new environment has the wheel in its site-packages. The requirements come from those of the Python that runs this
script, by a path file, so that gigabytes are not installed again. It is checked that `autotune` is the wheel's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "demo"
PACKAGES = ("autotune", "evaluators", "search_spaces")
DATA = ("*.yaml", "*.txt", "*.jsonl", "*.html", "*.css", "*.js", "py.typed")
"""Files beside the code that the packages need."""

TEXTS = {"--calibration": "calibration.txt", "--text": "search.txt", "--prompts": "prompts.txt"}
"""Option of `autotune init` -> file of the demo."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the seconds of a step."""
    started = time.monotonic()
    yield
    print(f"{time.monotonic() - started:7.1f} s  {name}", flush=True)


def run(command: Sequence[str | Path], folder: Path, **environment: str) -> str:
    """Run a command and return its stdout; what it printed is shown if it fails."""
    variables = {**os.environ, **environment}
    variables.pop("PYTHONPATH", None)
    done = subprocess.run([str(word) for word in command], cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(out: Path) -> tuple[Path, Path]:
    """Build in this environment with its hatchling: the sdist, and the wheel from the unpacked sdist as pip does."""
    code = "import sys; from hatchling.build import build_sdist, build_wheel; {}(sys.argv[1])"
    run([sys.executable, "-c", code.format("build_sdist"), out], ROOT)
    sdist = next(out.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "source", filter="data")
    source = next((out / "source").iterdir())
    run([sys.executable, "-c", code.format("build_wheel"), out], source)
    return sdist, next(out.glob("*.whl"))


def check_content(sdist: Path, wheel: Path) -> None:
    """The wheel has the files of the three packages and nothing else; the sdist has neither model nor reports."""
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
        entries = archive.read(next(name for name in archive.namelist() if name.endswith("/entry_points.txt"))).decode()
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", *DATA)
        for path in (ROOT / package).rglob(pattern)
    }
    assert found == expected, f"too many: {sorted(found - expected)}; missing: {sorted(expected - found)}"
    for needed in ("evaluators/prompts/", "search_spaces/", "autotune/reporting/html/templates/", "autotune/py.typed"):
        assert any(name.startswith(needed) for name in found), needed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Name: {project['name']}\n" in metadata
    assert all(f"Provides-Extra: {extra}\n" in metadata for extra in project["optional-dependencies"])
    assert all(name in entries for group in project["entry-points"].values() for name in group)
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    excluded = ("examples/demo/model/", "examples/output/", "reports/example/", ".ci/", ".venv")
    unwanted = [name for name in names if name.startswith(excluded)]
    assert not unwanted, unwanted
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py"} <= set(names)


def make_environment(folder: Path, wheel: Path) -> Path:
    """Make an environment with the wheel; the requirements come from this Python's site-packages."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / Path(sys.executable).name
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    paths = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "requirements.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    # A distribution of ours in those site-packages would count as installed.
    run([*install, "--no-deps", "--no-index", "--ignore-installed", "--no-warn-script-location", wheel], folder)
    code = f"import importlib\nfor name in {PACKAGES}: print(importlib.import_module(name).__file__)"
    where = run([python, "-c", code], folder).split()
    assert len(where) == len(PACKAGES)
    assert all(Path(file).is_relative_to(site) for file in where), where
    return python.parent


def use(programs: Path, folder: Path, model: Path, texts: dict[str, Path], trials: int) -> None:
    """Go the way of a new user with commands of the wheel: from a model's folder to an exported model and its scores.

    Args:
        programs: folder of the environment's commands.
        folder: where the user stands.
        model: folder of a model.
        texts: options of `autotune init` and their files.
        trials: of the search.
    """
    environment = {"AUTOTUNE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def autotune(*words: str | Path) -> str:
        shown = " ".join(str(word) for word in words)
        with step(f"autotune {shown}"):
            return run([programs / "autotune", *words], folder, **environment)

    assert autotune("--version").strip(), "no version"
    spaces = autotune("spaces")
    assert all(path.stem in spaces for path in (ROOT / "search_spaces").glob("*.yaml")), spaces
    assert "perplexity" in autotune("evaluators")
    options = [word for option, file in texts.items() for word in (option, file)]
    autotune("init", model, "-o", "my.yaml", "--trials", str(trials), "--embedder", "minilm", *options)
    study = Path("reports") / model.name.lower()
    autotune("plan", "my.yaml")
    autotune("search", "my.yaml", "--quiet", "--log-file", "search.log")
    assert (folder / study / "report.html").is_file()
    autotune("search", "my.yaml", "--quiet")
    autotune("list")
    autotune("export", study, "exported", "--knee", "--upload", "me/exported")
    assert (folder / "exported" / "openvino_model.bin").is_file()
    assert (folder / "exported" / "openvino_tokenizer.xml").is_file()
    autotune("evaluate", "exported", "--config", "my.yaml")
    autotune("report", study)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=DEMO / "model", help="Folder of the model; by default the demo's."
    )
    parser.add_argument("--texts", type=Path, default=DEMO, help="Folder of calibration.txt, search.txt, prompts.txt.")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--keep", type=Path, help="Folder for sdist and wheel; by default they are deleted.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autotune-wheel-") as scratch:
        folder = Path(scratch)
        for name in ("dist", "work"):
            (folder / name).mkdir()
        with step("build sdist and wheel"):
            sdist, wheel = build(folder / "dist")
        check_content(sdist, wheel)
        print(f"{sdist.name}: {sdist.stat().st_size:,} bytes; {wheel.name}: {wheel.stat().st_size:,} bytes")
        with step("make an environment and install the wheel"):
            programs = make_environment(folder / "environment", wheel)
        texts = {option: (options.texts / name).resolve() for option, name in TEXTS.items()}
        use(programs, folder / "work", options.model.resolve(), texts, options.trials)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(sdist, options.keep)
            shutil.copy(wheel, options.keep)


if __name__ == "__main__":
    main()
