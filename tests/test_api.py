"""The Python API on the tiny Llama: models, texts, scores, studies, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import autotune
from autotune.errors import AutotuneError, ConfigError, PlanError, PrerequisiteError, StudyError, UsageError

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo"
TEXT = (DEMO / "calibration.txt").read_text(encoding="utf-8")[:4000]
OTHER = (DEMO / "search.txt").read_text(encoding="utf-8")[:4000]
PERPLEXITY = {"perplexity": {"texts": [OTHER], "sequence_length": 32, "samples": 4}}
CALIBRATED: dict[str, Any] = {
    "mode": "int4_sym",
    "group_size": 32,
    "scale_estimation": True,
    "samples": 2,
    "sequence_length": 32,
}
Compress = Callable[..., autotune.CompressedModel]


class Searched(NamedTuple):
    """A study of three trials, the configuration it was given, and what its callback received."""

    study: autotune.Study
    config: dict[str, Any]
    calls: list[tuple[Any, Any]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of this file's tests; also the default one."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def default_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(cache))


@pytest.fixture(autouse=True)
def nothing_on_stdout(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No call of the API prints to stdout, from Python or from a library."""
    yield
    assert capfd.readouterr().out == ""


@pytest.fixture(scope="module")
def compress(tiny_llama: Path) -> Compress:
    """`autotune.compress` of the tiny Llama's folder, without progress."""
    return lambda model=tiny_llama, **options: autotune.compress(model, progress=False, **options)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    """The tiny Llama as `ov.Model`."""
    import openvino as ov

    return ov.Core().read_model(tiny_llama / "openvino_model.xml")


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def searched(tiny_llama: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A search from a mapping, in this process."""
    config = {
        "model": str(tiny_llama),
        "output": str(tmp_path_factory.mktemp("studies") / "study"),
        "space": {"mode": ["int8_asym", "int4_asym", "int4_sym"], "group_size": 32},
        "evaluators": PERPLEXITY,
        "report": False,
        "cache": {"directory": str(cache)},
        "study": {"trials": 4, "workers": 0},
    }
    calls: list[tuple[Any, Any]] = []
    study = autotune.search(config, trials=3, callbacks=[lambda *call: calls.append(call)], progress=False)
    return Searched(study, config, calls)


def digest(model: Any) -> str:
    from autotune.compression.ir.constants import model_digest

    return model_digest(model)


def windows(tokenizer: Any) -> npt.NDArray[np.int64]:
    """The windows that two samples of the text come to."""
    tokens = tokenizer(TEXT)["input_ids"][:64]
    return np.array(tokens, np.int64).reshape(2, 32)


def test_compress_a_folder(compress: Compress, tmp_path: Path) -> None:
    """Sizes, plan and settings agree with the folder that is written."""
    small = compress(mode="int4_asym", group_size=32, output=tmp_path / "out")
    assert small.saved is not None
    assert small.saved.folder == tmp_path / "out"
    assert (tmp_path / "out" / "openvino_model.bin").stat().st_size == small.footprint < small.original_footprint
    assert small.settings["mode"] == "int4_asym"
    assert small.settings["backup_mode"] == "int8_asym"
    assert set(small.plan["mode"]) == {"int4_asym", "int8_asym"}
    assert f"{small.footprint:,} bytes" in repr(small)
    assert "int4_asym" in small._repr_html_()
    assert repr(small.saved) == f"SavedModel({tmp_path / 'out'}: {repr(small).partition(': ')[2].rpartition(',')[0]})"


def test_compress_a_model_in_memory(compress: Compress, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """With or without tokenizer the same bytes as from the folder; the model in memory is not changed."""
    before = digest(model)
    bare = compress(model, mode="int4_sym", group_size=32)
    named = compress(model, mode="int4_sym", group_size=32, tokenizer=tokenizer)
    assert digest(model) == before
    assert digest(bare.model) == digest(named.model) == digest(compress(mode="int4_sym", group_size=32).model)
    named.save(tmp_path / "named")
    bare.save(tmp_path / "bare")
    assert (tmp_path / "named" / "tokenizer.json").is_file()
    assert not (tmp_path / "bare" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mode": "int8_sym"}, {"int8_sym"}),
        ({"mode": "int4_sym", "group_size": 32}, {"int4_sym", "int8_asym"}),
    ],
    ids=["int8", "int4"],
)
def test_compress_a_torch_module(settings: dict[str, Any], expected: set[str], compress: Compress) -> None:
    """A module of Linear layers, converted by OpenVINO: smaller, and its outputs are close to the module's."""
    import openvino as ov
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8)
    ).eval()
    inputs = torch.randn(4, 64)
    small = compress(ov.convert_model(module, example_input=inputs), **settings)
    assert set(small.plan["mode"]) == expected
    assert small.footprint < small.original_footprint / 3
    with torch.no_grad():
        correct = module(inputs).numpy()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    (found,) = ov.Core().compile_model(small.model, "CPU", exact)(inputs.numpy()).values()
    assert 0 < np.abs(found - correct).max() < 0.2 * np.abs(correct).max()


def test_texts_in_every_form(compress: Compress, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """A path, strings, a mapping and token ids of one text give the same bytes; token ids need no tokenizer."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    forms = [str(tmp_path / "text.txt"), tmp_path / "text.txt", [TEXT], {"path": str(tmp_path / "text.txt")}]
    digests = {digest(compress(calibration=form, **CALIBRATED).model) for form in forms}
    digests |= {digest(compress(model, calibration=windows(tokenizer), **CALIBRATED).model)}
    assert len(digests) == 1
    assert digest(compress(calibration="synthetic", **CALIBRATED).model) not in digests


def test_compress_to_a_size(compress: Compress) -> None:
    """The limit holds, formats differ among weights, and the record says how good the plan is."""
    limit = compress(mode="int4_asym", group_size=32).footprint
    small = compress(max_size=limit, evaluation=[OTHER])
    assert 0.9 * limit < small.footprint <= limit
    assert small.settings["max_size"] == limit
    assert small.plan[["mode", "group_size"]].drop_duplicates().shape[0] >= 2


def test_evaluate(compress: Compress, tiny_llama: Path, model: Any, tokenizer: Any) -> None:
    """A result of `compress`, its model in memory and its method have the same scores; the original is perfect."""
    small = compress(mode="int4_asym", group_size=32)
    scores = autotune.evaluate(small, evaluators=PERPLEXITY, progress=False)
    assert scores["kl_divergence"].value > 0
    assert (scores["kl_divergence"].stderr or 0) > 0
    assert small.evaluate(PERPLEXITY).as_dict() == scores.as_dict()
    memory = autotune.evaluate(small.model, reference=model, tokenizer=tokenizer, evaluators=PERPLEXITY, progress=False)
    assert memory.as_dict() == scores.as_dict()
    original = autotune.evaluate(tiny_llama, reference=tiny_llama, evaluators=PERPLEXITY, progress=False)
    assert original["kl_divergence"].value == pytest.approx(0, abs=1e-6)
    frame = scores.to_frame()
    assert list(frame.index) == list(scores)
    assert frame.loc["perplexity", "value"] == scores["perplexity"].value
    assert repr(scores).splitlines()[1].startswith("perplexity")


def test_search_calls_back_after_every_trial(searched: Searched) -> None:
    """Callbacks have the study of Optuna and the finished trial; keywords win over the configuration."""
    import optuna
    from optuna.trial import FrozenTrial

    study, _, calls = searched
    assert [trial.number for _, trial in calls] == [0, 1, 2] == list(study.trials.index)
    assert all(isinstance(inner, optuna.Study) and isinstance(trial, FrozenTrial) for inner, trial in calls)
    assert all(trial.state.is_finished() and trial.values for _, trial in calls)
    assert study.outcome is not None
    assert (study.outcome.ran, study.outcome.reason) == (3, "trials")
    assert [trial.number for trial in study.optuna.trials] == [0, 1, 2]


def test_search_takes_a_path_a_mapping_and_a_config(searched: Searched) -> None:
    """All three resume the same study."""
    study, config, _ = searched
    for given in (study.folder / "model.yaml", config, autotune.Config.model_validate(config)):
        again = autotune.search(given, trials=3, progress=False)
        assert again.outcome is not None
        assert (again.outcome.ran, again.folder) == (0, study.folder)


def test_a_study_is_read_as_it_was_left(searched: Searched, tmp_path: Path) -> None:
    """Tables, choices, figures, pages and exports of a loaded study."""
    study = autotune.load_study(searched.study.folder)
    assert study.trials.equals(searched.study.trials)
    assert study.front.equals(searched.study.front)
    sizes = study.front["footprint"].tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert study.best(max_size=sizes[-1]) == study.front.index[-1]
    assert "3 trials" in repr(study)
    assert "<table" in study._repr_html_()
    for figure in (study.plot_front(), study.plot_progress(), study.plot_settings()):
        png, size = figure._repr_png_()  # type: ignore[attr-defined]
        assert png.startswith(b"\x89PNG")
        assert size["width"] > size["height"] > 0
    assert study.to_html(tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    trial = study.best(max_size=sizes[-1])
    saved = study.export(tmp_path / "out", trial=trial, progress=False)
    assert (saved.trial, saved.plan.footprint) == (trial, sizes[-1])
    assert len(study.plan(trial)) == len(saved.plan.variants)


def test_compare_plan_and_reproduce(searched: Searched) -> None:
    """One study beside itself; sizes before a search are those after it; the bytes come out again."""
    study, config, _ = searched
    one, two = (autotune.compare(folders, whole=True) for folders in (study.folder, [study, str(study.folder)]))
    assert len(two) == 2 * len(one) >= 4
    planned = autotune.plan(config, forecast=False, progress=False)
    sizes = {point.footprint for point in planned.points if point.exact}
    assert set(study.trials["footprint"]) <= sizes
    assert repr(planned).startswith(f"DryRun({config['model']}: ")
    assert autotune.reproduce(study.folder, 1, progress=False).same


def test_a_worker_joins(searched: Searched) -> None:
    """The study has its trials, so that nothing is left to do."""
    study, config, _ = searched
    storage = f"sqlite:///{study.folder / 'study.db'}"
    outcome = autotune.worker({**config, "study": {"trials": 3, "workers": 0}}, storage, progress=False)
    assert (outcome.ran, outcome.reason) == (0, "trials")


Call = Callable[[Compress, Path], object]

MISTAKES: dict[str, tuple[type[AutotuneError], str, Call]] = {
    "mode": (PlanError, "`mode`", lambda compress, _: compress(mode="int5")),
    "group_size": (UsageError, "`group_size` must be", lambda compress, _: compress(mode="nf4", group_size="64")),
    "ratio": (PlanError, "`ratio`", lambda compress, _: compress(mode="nf4", ratio=2.0)),
    "awq": (UsageError, "`awq` must be", lambda compress, _: compress(mode="nf4", awq=1)),
    "ignored_scope": (UsageError, "`ignored_scope` must be", lambda compress, _: compress(ignored_scope="head")),
    "codebook": (UsageError, "`codebook`", lambda compress, _: compress(mode="codebook", codebook="1,x")),
    "max_size": (UsageError, "`max_size`", lambda compress, _: compress(max_size="9 XB", evaluation=[OTHER])),
    "evaluation": (UsageError, "`evaluation`", lambda compress, _: compress(max_size="90 MB")),
    "evaluation without max_size": (UsageError, "`max_size`", lambda compress, _: compress(evaluation=[OTHER])),
    "evaluation is no file": (UsageError, "`evaluation`", lambda c, _: c(max_size="90 MB", evaluation="none.txt")),
    "allow": (UsageError, "`allow`", lambda c, _: c(max_size="90 MB", evaluation=[OTHER], allow=["int1"])),
    "calibration": (UsageError, "`calibration`", lambda compress, _: compress(calibration="none.txt")),
    "calibration array": (UsageError, "`calibration`", lambda compress, _: compress(calibration=np.zeros(3))),
    "calibration key": (ConfigError, "calibration.pth", lambda compress, _: compress(calibration={"pth": "a"})),
    "samples": (ConfigError, "calibration.samples", lambda c, _: c(calibration=[TEXT], samples=0)),
    "no calibration": (PlanError, "calibration", lambda compress, _: compress(mode="int4_sym", gptq=True)),
    "model": (UsageError, "`model`.*convert_model", lambda compress, _: compress(object())),
    "output": (UsageError, "not an empty folder", lambda compress, folder: compress(output=folder)),
    "reference": (UsageError, "`reference`", lambda _, folder: autotune.evaluate(folder, progress=False)),
    "evaluators": (
        ConfigError,
        r"evaluators\.perplexty",
        lambda _, folder: autotune.evaluate(folder, reference=folder, evaluators=["perplexty"], progress=False),
    ),
    "options": (
        UsageError,
        "`prompts`.*similarity",
        lambda _, folder: autotune.evaluate(
            folder,
            reference=folder,
            evaluators=PERPLEXITY,
            options={"similarity": {"prompts": "x"}},
            progress=False,
        ),
    ),
    "config": (UsageError, "`config`", lambda _, folder: autotune.search(None, progress=False)),  # type: ignore[arg-type]
    "config key": (ConfigError, "modl", lambda _, folder: autotune.search({"modl": "x"}, progress=False)),
    "timeout": (
        ConfigError,
        "study.timeout",
        lambda _, folder: autotune.search({"model": str(folder)}, timeout="2 parsecs", progress=False),
    ),
    "folder": (StudyError, "no study", lambda _, folder: autotune.load_study(folder)),
    "folders": (UsageError, "folder", lambda _, folder: autotune.compare([])),
}
"""Wrong argument -> the error, what its message names, and the call."""


@pytest.mark.parametrize("name", MISTAKES)
def test_errors_name_the_argument(name: str, compress: Compress, tiny_llama: Path) -> None:
    """Each wrong argument is an error of `autotune.errors` that names it."""
    kind, message, call = MISTAKES[name]
    with pytest.raises(kind, match=message):
        call(compress, tiny_llama)


def test_texts_need_a_tokenizer(compress: Compress, model: Any) -> None:
    """A model in memory without tokenizer is refused for texts, and the message says how to pass one."""
    with pytest.raises(PrerequisiteError, match="tokenizer"):
        compress(model, calibration=[TEXT], **CALIBRATED)


def test_errors_of_a_study_name_the_argument(searched: Searched) -> None:
    """Numbers, metrics and limits that a study does not have."""
    study = searched.study
    for call, message in (
        (lambda: study.plan(99), "no trial 99"),
        (lambda: study.plot_settings("speed"), "`metric`.*speed"),
        (lambda: study.best(max_drop="much"), "`max_drop`"),
        (lambda: study.best(max_size="1 kB"), "smallest is trial"),
        (lambda: autotune.reproduce(study.folder, 99, progress=False), "no finished trial 99"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def imported(code: str) -> set[str]:
    """The modules that a process has imported after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return set(done.stderr.split())


def test_import_is_light() -> None:
    """`import autotune` imports itself and the standard library."""
    new = imported("import autotune; autotune.__version__; dir(autotune)") - imported("")
    found = {name.partition(".")[0] for name in new}
    assert found <= sys.stdlib_module_names | {"autotune"}


def test_load_study_needs_no_model_libraries(searched: Searched) -> None:
    """Neither reading, choosing and drawing nor comparing imports OpenVINO, torch or transformers."""
    folder = str(searched.study.folder)
    code = (
        f"import autotune\nstudy = autotune.load_study({folder!r})\nstudy.front, study.knee, study._repr_html_()\n"
        "study.plan(study.best()), study.plot_front(), autotune.compare([study])"
    )
    assert imported(code) & {"openvino", "torch", "transformers", "optimum", "datasets"} == set()
