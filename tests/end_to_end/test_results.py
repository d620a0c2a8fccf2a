"""Commands on a finished study: export, reproduce, compare."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import warnings
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml
from broken_files import PROBES, try_file
from commands import Command
from demo_study import rows, write_config
from once import built_once

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def exported(searched: Done, run: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The smallest model within 50 percent of perplexity, and what the command printed."""

    def export(folder: Path) -> None:
        done = run("export", "study", str(folder / "model"), "--max-drop", "50%", "--upload", "me/tiny")
        assert done.returncode == 0, done.stderr
        (folder / "printed.txt").write_text(done.stdout, encoding="utf-8")

    folder = built_once(tmp_path_factory, "exported", export)
    return folder / "model", (folder / "printed.txt").read_text(encoding="utf-8")


def test_an_exported_folder_is_complete(exported: tuple[Path, str]) -> None:
    """Model, tokenizer, records and a model card whose front matter a hub reads; the hashes are those of the files."""
    from autotune.common.files import fingerprint_file

    out, printed = exported
    names = {path.name for path in out.iterdir()}
    assert {"openvino_model.xml", "openvino_tokenizer.xml", "generation_config.json", "README.md"} <= names
    record = json.loads((out / "autotune.json").read_text(encoding="utf-8"))
    assert record["files"] == {name: fingerprint_file(out / name) for name in record["files"]}
    assert set(record["scores"]) >= {"kl_divergence", "similarity", "perplexity"}
    assert {"model", "tokenizer", "calibration"} <= set(record["inputs"])
    matter = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert matter["library_name"] == "openvino"
    assert "nncf.compress_weights" in printed or "no equivalent in NNCF" in printed
    assert printed.splitlines()[-1] == f"hf upload me/tiny {out}"


@pytest.mark.parametrize("kind", PROBES)
def test_damage_is_noticed(
    kind: str, exported: tuple[Path, str], workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A flipped bit or a truncation in any kind of file: computed again or refused by name; see benchmarks/chaos.py."""

    def copy(folder: Path) -> None:
        for part in ("cache", "study"):
            shutil.copytree(workplace / part, folder / part)
        shutil.copytree(exported[0], folder / "export")

    folder = built_once(tmp_path_factory, f"damaged-{kind}", copy)
    for seed in range(3):
        assert try_file(kind, folder, "truncation", random.Random(seed)) in ("recomputed", "refused")
        for repeat in range(3):
            try_file(kind, folder, "flipped bit", random.Random(f"{seed} {repeat}"))


def test_the_cards_snippets_run(exported: tuple[Path, str]) -> None:
    """Both ways to load the model work as the card shows them, in an empty namespace."""
    pytest.importorskip("openvino_genai")
    out, _ = exported
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        printed = StringIO()
        with chdir(out), redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optimum's and torch's own
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
        assert printed.getvalue().strip()


def test_the_exported_folder_scores_as_its_trial(exported: tuple[Path, str], run: Command) -> None:
    """`autotune evaluate` with the study's evaluators gives the scores that the study found, and the card tells."""
    out, _ = exported
    done = run("evaluate", str(out), "--config", "study/model.yaml", "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads((out / "autotune.json").read_text(encoding="utf-8"))["scores"]
    found = json.loads(done.stdout)
    assert {"kl_divergence", "similarity", "perplexity"} <= set(found) <= set(scores)
    for name, measured in found.items():
        assert measured["value"] == pytest.approx(scores[name]["value"], rel=1e-6, abs=1e-9), name


def test_optimum_and_genai_agree_on_an_exported_folder(exported: tuple[Path, str]) -> None:
    """Five prompts, the same greedy answer from both."""
    openvino_genai = pytest.importorskip("openvino_genai")
    from transformers import AutoTokenizer

    out, _ = exported
    properties = {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optimum's and torch's own
        from optimum.intel import OVModelForCausalLM

        model = OVModelForCausalLM.from_pretrained(out, ov_config=properties)
    pipe = openvino_genai.LLMPipeline(str(out), "CPU", **properties)
    tokenizer = AutoTokenizer.from_pretrained(out)
    config = openvino_genai.GenerationConfig(max_new_tokens=12, do_sample=False, apply_chat_template=False)
    for prompt in ("Mira keeps", "The town of", "Once", "Dear Ruth,", "It rained on"):
        inputs = tokenizer(prompt, return_tensors="pt")
        answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert pipe.generate(prompt, config) == tokenizer.decode(answer, skip_special_tokens=True), prompt


def test_every_trial_has_the_same_bytes_again(searched: Done, workplace: Path, run: Command) -> None:
    """Rebuilt from the inputs alone, with any algorithms."""
    complete = [row for row in rows(workplace / "study") if row["state"] == "COMPLETE"]
    chosen = [row for row in complete if row["awq"] == "True" or row["scale_estimation"] == "True"][:1] + complete[:1]
    for row in chosen:
        done = run("reproduce", "study", "--trial", row["trial"], "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["same"] is True


def test_every_algorithm_has_the_same_bytes_again(
    workplace: Path, tiny_llama_hf: Path, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten trials between them with every algorithm and several formats, each built again on an empty cache."""
    from autotune.compression.settings import ALGORITHMS
    from autotune.results.load import load_results
    from autotune.study.export import reproduce

    space = {"mode": ["int4_asym", "nf4", "mxfp4", "int3_sym"], "group_size": [32, 64], "ratio": [0.6, 1.0]}
    space |= {name: [False, True] for name in ALGORITHMS}
    # Without racing, which would stop dominated ones before they are complete.
    study = {"trials": 10, "seed": 3, "workers": 0, "sampler": "random", "racing": False}
    write_config(tmp_path, tiny_llama_hf, space=space, study=study)
    done = run("search", "model.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("AUTOTUNE_CACHE", str(workplace / "cache"))
    complete = [record for record in load_results(tmp_path / "study").records.values() if record.complete]
    assert len(complete) == 10
    for name in ALGORITHMS:
        assert any(record.settings.get(name) for record in complete), name
    for record in complete:
        again = reproduce(tmp_path / "study", record.number, storage=None, stage=lambda _: None)
        assert again.same, (record.settings, again)


def test_a_changed_text_is_named(searched: Done, workplace: Path, run: Command, tmp_path: Path) -> None:
    """One sentence more in the calibration text: other bytes, and the file is named."""
    shutil.copytree(workplace / "study", tmp_path / "study")
    text, file = tmp_path / "calibration.txt", tmp_path / "study" / "model.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    before = Path(config["calibration"]["path"])
    text.write_text("A new sentence. " + before.read_text(encoding="utf-8"), encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace(str(before), str(text)), encoding="utf-8")
    aware = next(row for row in rows(workplace / "study") if row["state"] == "COMPLETE" and row["awq"] == "True")
    done = run("reproduce", str(tmp_path / "study"), "--trial", aware["trial"])
    assert done.returncode == 1, done.stderr
    assert f"calibration changed: {text}" in done.stdout


def test_compare_prints_one_table(searched: Done, run: Command, tmp_path: Path) -> None:
    """Of one study twice as well: two originals, files in Markdown, LaTeX and CSV, a plot."""
    done = run("compare", "study", "study", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| original") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"compare.md", "compare.tex", "compare.csv", "compare.png"}


def test_the_tutorial_runs_as_it_stands(workplace: Path, tiny_llama_hf: Path, run: Command, tmp_path: Path) -> None:
    """Every command of the tutorial, one after the other, with its model.yaml cut to a few trials."""
    text = (Path(__file__).parents[2] / "docs" / "tutorials" / "command-line.md").read_text(encoding="utf-8")
    shutil.copytree(tiny_llama_hf, tmp_path / "my-model")
    for name in ("calibration.txt", "search.txt", "prompts.txt"):
        shutil.copyfile(workplace / name, tmp_path / name)
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for long, short in (
        ("trials: 40", "trials: 3, workers: 0"),
        ("samples: 64", "samples: 8"),
        ("length: 256", "length: 32"),
    ):
        assert long in config
        config = config.replace(long, short)
    for command in re.findall(r"^autotune (.*)$", text, re.MULTILINE):
        if "plan" in command:
            (tmp_path / "model.yaml").write_text(config)
        done = run(*command.split(), folder=tmp_path)
        assert done.returncode == 0, command + done.stderr
    assert (tmp_path / "reports" / "my-model" / "report.html").is_file()
    assert (tmp_path / "my-model-small" / "README.md").is_file()
    assert (tmp_path / "comparison" / "compare.tex").is_file()
