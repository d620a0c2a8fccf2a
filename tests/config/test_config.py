"""model.yaml: what it means, and what is refused before any work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autotune.common.units import Constraint
from autotune.config.config import Config, config_from, config_schema, load_config, load_configs
from autotune.config.sections import SAMPLERS, Calibration
from autotune.errors import ConfigError
from autotune.evaluation import SCORING_CONFIG, Metric, registry

MODULE = "autotune_test_evaluators"
GOOD = """\
model: ./llama
calibration: {path: texts/calibration.txt, samples: 8, sequence_length: 64}
space: quick
evaluators:
  similarity: {prompts: texts/prompts.txt, max_new_tokens: 16, embedder: minilm}
  perplexity: {path: texts/search.txt, sequence_length: 64}
objectives: {kl_divergence: minimize, footprint: minimize}
constraints: {perplexity_increase: "<= 5%", footprint: "<= 1.2 GB"}
study: {trials: 3, timeout: 2h, sampler: nsga2, seed: 7}
"""


class _Evaluator:
    """Enough of an evaluator for a configuration to name it."""

    fingerprint = reference = evaluate = original = lambda self: None


class _SimilarityOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompts: str = "default"
    max_new_tokens: int = Field(128, ge=1)
    embedder: str = "sentence-transformers/all-mpnet-base-v2"


class _Similarity(_Evaluator):
    metrics: Mapping[str, Metric] = {"similarity": Metric("maximize", perfect=1.0), "fdt": Metric("maximize")}
    Options = _SimilarityOptions


class _PerplexityOptions(Calibration):
    samples: int | None = Field(None, ge=1)


class _Perplexity(_Evaluator):
    metrics: Mapping[str, Metric] = {
        "perplexity": Metric("minimize"),
        "perplexity_increase": Metric("minimize", "%", perfect=0.0),
        "kl_divergence": Metric("minimize", "nats/token", perfect=0.0),
        "top1_agreement": Metric("maximize", perfect=1.0),
    }
    Options = _PerplexityOptions


class _Latency(_Evaluator):
    metrics: Mapping[str, Metric] = {"tokens_per_second": Metric("maximize", "1/s")}


class _Twice(_Evaluator):
    metrics: Mapping[str, Metric] = {"fdt": Metric("maximize")}


class _Plain:
    """Not an evaluator."""


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three evaluators under the usual names, whether or not the package is installed."""
    module = ModuleType(MODULE)
    for kind in (_Similarity, _Perplexity, _Latency, _Twice, _Plain):
        setattr(module, kind.__name__.strip("_"), kind)
    monkeypatch.setitem(sys.modules, MODULE, module)
    points = [
        EntryPoint(name, f"{MODULE}:{name.capitalize()}", registry.GROUP)
        for name in ("similarity", "perplexity", "latency")
    ]
    broken = EntryPoint("broken", "autotune_no_such_module:Nothing", registry.GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: [*points, broken])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder and texts, of which one is empty and one is not text."""
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    (tmp_path / "texts").mkdir()
    for name in ("calibration", "search", "prompts"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"A text for {name}.\n", encoding="utf-8")
    (tmp_path / "texts" / "empty.txt").write_text(" \n\n")
    (tmp_path / "texts" / "latin.txt").write_bytes("fünf\nvor zwölf\n".encode() + b"\xe4\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    """model.yaml in `folder`."""
    path = folder / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_is_read_as_it_is_meant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values arrive typed, and all paths absolute, from the file's folder."""
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    config = load_config(write(folder, GOOD))
    assert config.model == str(folder / "llama")
    assert config.output == folder / "reports" / "llama"
    assert config.calibration == Calibration(path=folder / "texts/calibration.txt", samples=8, sequence_length=64)
    assert config.space.name == "quick"
    assert config.evaluators == {
        "similarity": {"prompts": str(folder / "texts/prompts.txt"), "max_new_tokens": 16, "embedder": "minilm"},
        "perplexity": {"path": str(folder / "texts/search.txt"), "sequence_length": 64},
    }
    assert list(config.objectives.items()) == [("kl_divergence", "minimize"), ("footprint", "minimize")]
    assert config.constraints == {
        "perplexity_increase": Constraint("<=", 5.0, "<= 5%"),
        "footprint": Constraint("<=", 1.2e9, "<= 1.2 GB"),
    }
    assert (config.study.trials, config.study.timeout, config.study.sampler) == (3, 7200.0, "nsga2")
    assert (config.study.seed, config.study.workers, config.trust_remote_code) == (7, "auto", False)


def test_a_model_alone_is_enough(folder: Path) -> None:
    """Every key but the model has a default."""
    config = load_config(write(folder, "model: HuggingFaceTB/SmolLM2-135M\n"))
    assert config.model == "HuggingFaceTB/SmolLM2-135M"
    assert config.output == folder / "reports" / "smollm2-135m"
    assert (config.calibration.dataset, config.calibration.split) == ("Salesforce/wikitext", "train")
    assert (config.calibration.samples, config.calibration.sequence_length) == (128, 512)
    assert config.space.name == "int4"
    assert list(config.evaluators) == ["similarity", "perplexity"]
    assert config.evaluators["perplexity"]["split"] == "test"
    assert config.objectives == {"kl_divergence": "minimize", "footprint": "minimize"}
    assert config.constraints == {}
    study = config.study
    assert (study.trials, study.timeout, study.sampler, study.seed, study.workers) == (64, None, "tpe", 0, "auto")
    assert config.runtime.device == "CPU"
    assert dict(config.runtime.ov_config) == dict(SCORING_CONFIG)
    assert (config.cache.directory, config.cache.limit) == (None, 20 * 10**9)


def test_objectives_follow_the_evaluators(folder: Path) -> None:
    """Without KL divergence, the default objectives are what the chosen evaluators measure."""
    config = load_config(write(folder, "model: gpt2\nevaluators: {similarity: }\n"))
    assert config.objectives == {"similarity": "maximize", "footprint": "minimize"}
    config = load_config(write(folder, f"model: gpt2\nevaluators: {{'{MODULE}:Latency': {{anything: 1}}}}\n"))
    assert config.objectives == {"tokens_per_second": "maximize", "footprint": "minimize"}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "model: a/b\n",
        GOOD
        + "runtime: {ov_config: {KV_CACHE_PRECISION: null, NUM_STREAMS: 1}}\ncache: {directory: c, limit: 3 MiB}\n",
        GOOD + "output: somewhere/else\ntrust_remote_code: true\n",
        "model: a/b\nspace: {mode: [nf4, int8_sym], ratio: {low: 1e-1, high: 1}, ignored_scope: ['on', '1e-3']}\n",
    ],
)
def test_a_config_written_out_loads_equal(folder: Path, text: str) -> None:
    """The resolved configuration is plain data, and as YAML it loads as the same configuration from anywhere."""
    config = load_config(write(folder, text))
    assert yaml.safe_load(config.to_yaml()) == config.as_dict() == json.loads(json.dumps(config.as_dict()))
    (folder / "copy").mkdir()
    copy = load_config(write(folder / "copy", config.to_yaml()))
    assert copy == config
    assert copy.to_yaml() == config.to_yaml()


def test_nothing_can_be_changed(folder: Path) -> None:
    """A configuration is frozen, sections included."""
    config = load_config(write(folder, GOOD))
    with pytest.raises(ValidationError):
        config.study.trials = 4
    with pytest.raises(ValidationError):
        config.model = "other"


def test_runtime_properties_lie_over_the_exact_ones(folder: Path) -> None:
    """One property of the user's leaves the others as exact scoring needs them; null stays, for OpenVINO to choose."""
    text = "model: a/b\nruntime: {ov_config: {INFERENCE_PRECISION_HINT: bf16, KV_CACHE_PRECISION: ~}}\n"
    assert load_config(write(folder, text)).runtime.ov_config == {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": None,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


def test_overrides_win_over_the_file(folder: Path) -> None:
    """An override replaces or adds a value, is read as YAML, and makes the mappings on its way."""
    overrides = [
        "study.trials=5",
        "runtime.ov_config.NUM_STREAMS=2",
        "space={mode: nf4}",
        "constraints.similarity=>= 90%",
        f"evaluators.{MODULE}:Latency.x.y=1",
        "study.timeout=",
        "evaluators.similarity.prompts=default",
    ]
    config = load_config(write(folder, GOOD.replace(">=", "<=")), overrides)
    assert (config.study.trials, config.study.timeout, config.study.seed) == (5, None, 7)
    assert config.runtime.ov_config["NUM_STREAMS"] == 2
    assert config.space.enumerate(1) == [{"mode": "nf4"}]
    assert config.constraints["similarity"] == Constraint(">=", 0.9, ">= 90%")
    assert config.evaluators[f"{MODULE}:Latency"] == {"x": {"y": 1}}
    assert config.evaluators["similarity"]["prompts"] == "default"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.trials=-1", "--set study.trials: must be at least 1, got -1"),
        ("study.trails=3", "--set study.trails: unknown key (did you mean 'trials'?)"),
        ("study.trials", "--set: must be a key and a value, such as --set study.trials=10, got 'study.trials'"),
        ("study..trials=1", "--set: must be a key and a value"),
        ("study=[", "--set study: '[' is not valid YAML"),
        ("study={a: 1, a: 2}", "--set study: '{a: 1, a: 2}': is given twice"),
        ("space.mode=nf4", "--set space.mode: space is not a mapping"),
        ("model.x.y=1", "--set model.x.y: model is not a mapping"),
        ("study={seed: -2}", "--set study.seed: must be at least 0, got -2"),
        ("evaluators.perplexity.path=nope.txt", "--set evaluators.perplexity.path: no such file"),
    ],
)
def test_a_wrong_override_names_itself(folder: Path, override: str, message: str) -> None:
    """An error that comes from the command line says --set and the key, not a line of the file."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, GOOD), [override])
    assert str(caught.value).startswith(message)
    assert caught.value.file is None


def line_of(text: str, key: str) -> int:
    """The 1-based line of the last part of `key`, each part looked for from the line of the one before on."""
    lines, at = text.splitlines(), 0
    for part in key.split("."):
        name = re.sub(r"\[\d+\]$", "", part)
        at = next(
            index for index in range(at, len(lines)) if re.search(rf"(?<!\w){re.escape(name)}['\"]?:", lines[index])
        )
    return at + 1


WRONG_VALUES = [
    # (what of GOOD is replaced, by what, the key, what the message says)
    ("study: {trials: 3", "stduy: {trials: 3", "stduy", "unknown key (did you mean 'study'?); the keys here are model"),
    ("trials: 3", "trails: 3", "study.trails", "unknown key (did you mean 'trials'?)"),
    ("trials: 3", "trials: 3, trials: 4", "study.trials", "is given twice"),
    ("trials: 3", "trials: many", "study.trials", "must be a whole number, got the text 'many'"),
    ("trials: 3", "trials: '3'", "study.trials", "write it without quotes"),
    ("trials: 3", "trials: 1e2", "study.trials", "must be a whole number, got 100.0"),
    ("trials: 3", "trials: true", "study.trials", "must be a whole number, got true"),
    ("trials: 3", "trials: -4", "study.trials", "must be at least 1, got -4"),
    ("trials: 3", "trials: ", "study.trials", "must be a whole number, got nothing"),
    ("timeout: 2h", "timeout: soon", "study.timeout", "a duration such as '2h'"),
    ("timeout: 2h", "timeout: -2h", "study.timeout", "a duration such as '2h'"),
    ("timeout: 2h", "timeout: 0", "study.timeout", "more than zero"),
    ("sampler: nsga2", "sampler: nsga", "study.sampler", "must be one of tpe, nsga2, gp, random, grid, got the text"),
    ("sampler: nsga2", "sampler: nsga", "study.sampler", "did you mean 'nsga2'"),
    ("seed: 7", "seed: -7", "study.seed", "must be at least 0, got -7"),
    ("space: quick", "space: quik", "space", "unknown preset 'quik' (did you mean 'quick'?); the presets are"),
    ("space: quick", "space: spaces/mine.yaml", "space", "no such file"),
    ("space: quick", "space: [quick]", "space", "a preset's name, a path or a mapping"),
    ("space: quick", "space: {mode: int4_smy}", "space.mode", "did you mean 'int4_sym'"),
    ("space: quick", "space: {mode: nf4, group_size: 0}", "space.group_size", "positive number or -1"),
    ("space: quick", "space: {mode: nf4, group_size: [32, -3]}", "space.group_size[1]", "got -3"),
    ("space: quick", "space: {mode: nf4, ratio: -0.5}", "space.ratio", "between 0 and 1, got -0.5"),
    ("space: quick", "space: {mode: nf4, ratio: [1.5]}", "space.ratio[0]", "between 0 and 1, got 1.5"),
    ("space: quick", "space: {mode: nf4, awq: []}", "space.awq", "no choices"),
    ("space: quick", "space: {mode: nf4, awq: [on, off]}", "space.awq[0]", "write true"),
    ("space: quick", "space: {mode: int8_asym, ratio: 0.8}", "space.ratio", "ratio has no effect"),
    ("space: quick", "space: {mode: mxfp4, group_size: 64}", "space.group_size", "mxfp4 has group size 32"),
    ("space: quick", "space: {mode: nf4, lora_rank: 0}", "space.lora_rank", "at least 1"),
    (
        "path: texts/calibration.txt",
        "path: texts/calibratoin.txt",
        "calibration.path",
        "did you mean 'calibration.txt'",
    ),
    ("path: texts/calibration.txt", "path: text/a.txt", "calibration.path", "there is no folder"),
    ("path: texts/calibration.txt", "path: texts/empty.txt", "calibration.path", "is empty"),
    ("path: texts/calibration.txt", "path: texts/latin.txt", "calibration.path", "not UTF-8 text"),
    ("path: texts/calibration.txt", "path: texts", "calibration.path", "is a folder"),
    ("path: texts/calibration.txt", "path: 5", "calibration.path", "the path of a text file"),
    ("path: texts/calibration.txt, ", "", "calibration", "needs a text: path (a text file), dataset"),
    (
        "calibration: {path",
        "calibration: {dataset: a/b, split: train, path",
        "calibration.path",
        "remove one of the two",
    ),
    ("calibration: {path", "calibration: {split: train, path", "calibration.split", "belongs to a dataset"),
    ("path: texts/calibration.txt", "dataset: a/b", "calibration.dataset", "needs a split"),
    ("path: texts/calibration.txt", "dataset: ./rows", "calibration.dataset", "no such file or folder"),
    ("calibration: {path", "calibration: {synthetic: true, path", "calibration.path", "combined with synthetic: true"),
    ("samples: 8", "samples: 0", "calibration.samples", "must be at least 1, got 0"),
    ("sequence_length: 64}\nspace", "sequence_length: 1}\nspace", "calibration.sequence_length", "at least 2, got 1"),
    ("  similarity:", "  similarty:", "evaluators.similarty", "Did you mean similarity"),
    ("  similarity:", "  broken:", "evaluators.broken", "cannot be imported"),
    ("  similarity:", "  'nowhere:Nothing':", "evaluators.nowhere:Nothing", "cannot be imported"),
    ("  similarity: {", f"  '{MODULE}:Plain': {{", f"evaluators.{MODULE}:Plain", "not an evaluator"),
    ("max_new_tokens: 16", "max_new_tokens: 0", "evaluators.similarity.max_new_tokens", "must be at least 1, got 0"),
    ("max_new_tokens: 16", "max_tokens: 16", "evaluators.similarity.max_tokens", "did you mean 'max_new_tokens'"),
    ("prompts: texts/prompts.txt", "prompts: texts/no.txt", "evaluators.similarity.prompts", "no such file"),
    ("prompts: texts/prompts.txt", "prompts: texts/empty.txt", "evaluators.similarity.prompts", "is empty"),
    ("embedder: minilm", "embedder: ./minilm", "evaluators.similarity.embedder", "no such file or folder"),
    ("path: texts/search.txt", "path: texts/empty.txt", "evaluators.perplexity.path", "is empty"),
    ("path: texts/search.txt, ", "", "evaluators.perplexity", "needs a text"),
    ("perplexity: {path: texts/search.txt", "perplexity: 3 #", "evaluators.perplexity", "must be a mapping of options"),
    ("kl_divergence: minimize", "kl_divergance: minimize", "objectives.kl_divergance", "did you mean 'kl_divergence'"),
    ("kl_divergence: minimize", "kl_divergence: minimise", "objectives.kl_divergence", "minimize or maximize"),
    ("kl_divergence: minimize", "kl_divergence: min", "objectives.kl_divergence", "did you mean 'minimize'"),
    ("kl_divergence: minimize", "kl_divergence: maximize", "objectives.kl_divergence", "smaller, the better"),
    ("kl_divergence: minimize", "tokens_per_second: maximize", "objectives.tokens_per_second", "evaluator latency"),
    ("{kl_divergence: minimize, footprint: minimize}", "{}", "objectives", "at least one objective"),
    ("{kl_divergence: minimize, footprint: minimize}", "[footprint]", "objectives", "must be a mapping"),
    ('"<= 5%"', "5%", "constraints.perplexity_increase", "must be a limit such as '<= 5%'"),
    ('"<= 5%"', "<= 0.05", "constraints.perplexity_increase", "needs the % sign"),
    ('"<= 1.2 GB"', "<= 1.2", "constraints.footprint", "needs a unit"),
    ('"<= 1.2 GB"', "<= 1.2 GX", "constraints.footprint", "unknown unit"),
    ('footprint: "<=', 'footprnt: "<=', "constraints.footprnt", "did you mean 'footprint'"),
    ('perplexity_increase: "', 'perplexity: "', "constraints.perplexity", "or limit perplexity_increase"),
    ("model: ./llama", "model: ./lama", "model", "no such folder"),
    ("model: ./llama", "model: a/b/c", "model", "no such folder"),
    ("model: ./llama", "model: texts", "model", "a folder without a model"),
    ("model: ./llama", "model: texts/search.txt", "model", "is a file"),
    ("model: ./llama", "model: my model", "model", "neither a folder nor a Hugging Face id"),
    ("model: ./llama", "model: ''", "model", "a text that is not empty"),
    ("model: ./llama", "model: !!binary YQ==", "model", "has the YAML tag !!binary"),
    ("model: ./llama", "model: a/b\ntrust_remote_code: yes", "trust_remote_code", "must be true or false"),
    ("model: ./llama", "model: a/b\noutput: llama/config.json", "output", "is a file"),
    ("model: ./llama", "model: a/b\nruntime: {device: cpu}", "runtime.device", "write CPU"),
    ("seed: 7", "workers: -1", "study.workers", "must be at least 0 or auto, got -1"),
    ("seed: 7", "workers: many", "study.workers", "must be a whole number or auto, got the text 'many'"),
    ("model: ./llama", "model: a/b\nruntime: {ov_config: {A: [1]}}", "runtime.ov_config.A", "a text or a number"),
    (
        "model: ./llama",
        "model: a/b\nruntime: {search: {KV_CACHE_PRECISION: [u8, u2]}}",
        "runtime.search.KV_CACHE_PRECISION",
        "has the value the text 'u2'; possible are f32, bf16, f16, u8, u4, and null",
    ),
    ("model: ./llama", "model: a/b\ncache: {limit: 3 XB}", "cache.limit", "unknown unit"),
    ("model: ./llama", "model: a/b\ncache: {directory: texts/search.txt}", "cache.directory", "is a file"),
    ("model: ./llama", "model: a/b\n? [a]\n: b", None, "has a key on line 2 that is not a text"),
    ("model: ./llama", "model: a/b\n<<: {seed: 1}", "<<", "merge keys are not supported"),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), WRONG_VALUES, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_refused_with_line_and_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, key: str | None, message: str
) -> None:
    """One wrong value makes one paragraph: file, line, key, what was got, what is allowed, the nearest right name."""
    monkeypatch.chdir(folder)
    text = GOOD.replace(old, new)
    assert text != GOOD
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    error = caught.value
    assert (error.file, error.key, error.exit_code) == (path, key, 2)
    if key is not None:
        assert error.line == line_of(text, key)
    assert str(error).startswith(f"{path}:{error.line}: {f'{key}: ' if key else ''}")
    assert message in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "is empty; `autotune init MODEL`"),
        ("# nothing yet\n", None, "is empty"),
        ("- model: a\n", 1, "must be a mapping of keys"),
        ("model\n", 1, "must be a mapping of keys"),
        ("model: a/b\nspace: [int4\n", 3, "is not valid YAML"),
        ("model: a/b\n\tspace: int4\n", 2, "not tabs"),
        ("model: a/b\nconstraints:\n  similarity: >= 0.9\n", 3, 'put quotes around a limit with >=, as in ">= 0.9"'),
        ('model: "C:\\models\\x"\n', 1, "single quotes"),
        ("model: a/b\n--- \nmodel: c/d\n", 2, "is not valid YAML"),
        ("model: a/b\n\x07\n", 2, "is not valid YAML"),
        ("model: &a [*a]\n", 1, "an alias that refers to what it is part of"),
        ("[" * 5000, None, "nested too deeply"),
        ("space: int4\n", 1, "model: is missing"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(folder: Path, text: str, line: int | None, message: str) -> None:
    """A file that is empty, not YAML or not a mapping is refused with the line where it goes wrong, and a hint."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert (caught.value.file, caught.value.line) == (path, line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(folder: Path) -> None:
    """A missing file, a folder and a file that is not UTF-8 are refused by name."""
    with pytest.raises(ConfigError, match="no such file; `autotune init"):
        load_config(folder / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(folder)
    with pytest.raises(ConfigError, match=r"latin\.txt:3: is not UTF-8"):
        load_config(folder / "texts" / "latin.txt")


def test_every_problem_is_told_at_once(folder: Path) -> None:
    """The first problem of the file is reported in full, the others briefly after it, in the order of their lines."""
    text = (
        GOOD.replace("trials: 3", "trials: 0")
        .replace("quick", "quik")
        .replace("max_new_tokens: 16", "max_new_tokens: 0")
        .replace("kl_divergence: min", "kl: min")
    )
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text))
    message = str(caught.value)
    assert message.startswith(f"{folder / 'model.yaml'}:3: space: unknown preset 'quik'")
    assert "(and 3 more: line 5: evaluators.similarity.max_new_tokens: " in message
    order = ["space: ", "max_new_tokens: ", "objectives.kl: ", "study.trials: "]
    assert sorted(order, key=message.index) == order


def test_a_wrong_space_file_is_told_with_its_own_line(folder: Path) -> None:
    """An error in a space's own file names that file and line beside those of model.yaml."""
    (folder / "mine.yaml").write_text("mode: nf4\nratio: 2\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:2: ratio: must be between 0 and 1, got 2$"):
        load_config(write(folder, GOOD.replace("quick", "mine.yaml")))
    with pytest.raises(ConfigError, match=r"study.seed: .* \(and 1 more: .*mine\.yaml:2: ratio: must be between"):
        load_config(write(folder, GOOD.replace("quick", "mine.yaml").replace("seed: 7", "seed: x")))


def test_a_space_file_that_cannot_be_read_is_told_where_it_is_named(folder: Path) -> None:
    """A folder, an empty file and a file that is not YAML's alphabet: the line of `space`, and the file."""
    (folder / "nothing.yaml").write_text("# nothing\n")
    for name, problem in (("../..", "is a folder"), ("nothing.yaml", "nothing.yaml is empty")):
        with pytest.raises(ConfigError, match=rf"model\.yaml:3: space: /.*{problem}"):
            load_config(write(folder, GOOD.replace("quick", name)))


LONG = ([[i, "x"] for i in range(200)], {f"key{i}": i for i in range(500)}, "x" * 9000, {"x" * 9000: 1}, [10**300] * 9)


@pytest.mark.parametrize("value", LONG, ids=["list", "mapping", "text", "key", "number"])
def test_messages_are_short_whatever_the_values(folder: Path, value: object) -> None:
    """Each key of a space, of texts and of sections, set to a long value of a wrong kind."""
    good = yaml.safe_load(GOOD)
    good["space"] = {"mode": "int4_asym", "group_size": 64, "ratio": 1, "gptq": False, "ignored_scope": "a"}
    places = [(good, key) for key in good]
    places += [(good[section], key) for section in good if isinstance(good[section], dict) for key in good[section]]
    messages = {}
    for around, key in [*places, (good["evaluators"]["similarity"], "prompts")]:
        before, around[key] = around[key], value
        try:
            load_config(write(folder, yaml.safe_dump(good)))
        except ConfigError as error:
            messages[key] = str(error)
        around[key] = before
    assert len(messages) > len(places) // 2
    for key, message in messages.items():
        assert len(message) < 3500
        assert re.search(rf"model\.yaml:\d+: ([\w.]+\.)?{key}|\(and \d+ more", message)


def test_a_metric_of_two_evaluators_is_refused(folder: Path) -> None:
    """Two evaluators that measure one metric would overwrite each other's numbers."""
    text = GOOD.replace("objectives:", f"  '{MODULE}:Twice': {{}}\nobjectives:")
    with pytest.raises(ConfigError, match="measures fdt, which similarity measures too"):
        load_config(write(folder, text))


def test_report_texts_are_laid_over_the_searchs(folder: Path) -> None:
    """A text given there takes the place of the search's with all that chose a part of it; the rest stays."""
    text = GOOD + "report: {perplexity: {path: texts/calibration.txt}}\n"
    config = load_config(write(folder, text))
    assert config.report == {"perplexity": {"path": str(folder / "texts/calibration.txt"), "sequence_length": 64}}
    assert load_config(write(folder, config.to_yaml())).report == config.report
    assert load_config(write(folder, GOOD + "report: false\n")).report is False
    assert load_config(write(folder, GOOD)).report is None
    for wrong, message in (
        ("{perplexit: {path: texts/search.txt}}", "did you mean 'perplexity'"),
        ("{perplexity: {path: texts/nowhere.txt}}", "nowhere.txt"),
        ("{perplexity: {}}", "must be a mapping of options"),
        ("[perplexity]", "must be false or a mapping"),
        ("true", "must be false or a mapping"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(write(folder, f"{GOOD}report: {wrong}\n"))


def test_relative_error_needs_something_to_be_relative_to(folder: Path) -> None:
    """relative_error is an objective where similarity or perplexity is scored, and only there."""
    text = "model: a/b\nobjectives: {relative_error: minimize, footprint: minimize}\n"
    assert load_config(write(folder, text)).objectives["relative_error"] == "minimize"
    with pytest.raises(ConfigError, match="no evaluator here measures one of them"):
        load_config(write(folder, text + f"evaluators: {{'{MODULE}:Latency': }}\n"))


def test_a_text_source_is_checked_wherever_it_is_made(folder: Path) -> None:
    """Made in code, a text source obeys the same rules, with paths from the current folder."""
    assert Calibration(path=folder / "texts" / "search.txt").path == folder / "texts" / "search.txt"
    assert Calibration(dataset="a/b", split="test").column is None
    with pytest.raises(ValidationError, match="no such file"):
        Calibration(path=folder / "none.txt")
    with pytest.raises(ValidationError, match="needs a text"):
        Calibration()


def test_texts_may_be_the_models_own(folder: Path) -> None:
    """synthetic: true is a text source of its own, for calibration and scores, and survives being written."""
    text = GOOD.replace("path: texts/calibration.txt", "synthetic: true")
    text = text.replace("path: texts/search.txt", "synthetic: true, samples: 4")
    config = load_config(write(folder, text))
    assert config.calibration.synthetic
    assert config.as_dict()["calibration"] == {"synthetic": True, "samples": 8, "sequence_length": 64}
    assert load_config(write(folder, config.to_yaml())).calibration == config.calibration


def test_the_schema_is_of_the_file_as_written() -> None:
    """The JSON Schema has every key of a configuration, and takes quantities as people write them."""
    schema = json.loads(json.dumps(config_schema()))
    assert set(schema["properties"]) == set(Config.model_fields) | {"models"}
    assert schema["oneOf"] == [{"required": ["model"]}, {"required": ["models"]}]
    assert schema["additionalProperties"] is False
    study = schema["$defs"]["StudyOptions"]["properties"]
    assert {"string", "number"} <= set(study["timeout"]["anyOf"][0]["type"])
    assert study["sampler"]["enum"] == list(SAMPLERS)
    assert "ratio" in schema["properties"]["space"]["anyOf"][1]["properties"]


def test_reading_a_configuration_is_light() -> None:
    """Importing the configuration and the spaces pulls in none of the heavy packages."""
    heavy = ("openvino", "torch", "transformers", "optimum", "datasets", "matplotlib", "pandas", "optuna", "numpy")
    modules = "autotune.config.config, autotune.config.starter"
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_several_models_are_several_studies(folder: Path) -> None:
    """Alike but for the model and a folder of its own inside `output`; a single model is one study."""
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text("{}")
    text = GOOD.replace("model: ./llama", "models: [./llama, ./other]\noutput: many")
    first, second = load_configs(write(folder, text))
    assert (first.model, second.model) == (str(folder / "llama"), str(folder / "other"))
    assert (first.output.name, second.output.parent.name) == ("llama", "many")
    assert first.space == second.space
    assert load_configs(write(folder, GOOD)) == [load_config(write(folder, GOOD))]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("models: []", "must be a list of models"),
        ("models: ./llama", "must be a list of models"),
        ("models: [./llama]\nmodel: ./llama", "either model or models"),
        ("models: [./llama, texts/../llama]", "the short name 'llama'"),
        ("models: [./llama, ./lama]", "no such folder"),
    ],
)
def test_wrong_lists_of_models_are_refused(folder: Path, models: str, message: str) -> None:
    """With the file and the line."""
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_configs(write(folder, GOOD.replace("model: ./llama", models)))
    assert "model.yaml:1" in str(caught.value)


def test_commands_for_one_study_say_so(folder: Path) -> None:
    """`load_config` names the command that takes several models."""
    with pytest.raises(ConfigError, match="lists several models, which `autotune search`"):
        load_config(write(folder, GOOD.replace("model: ./llama", "models: [./llama]")))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "./" + "a" * 300},
        {"output": "b" * 300},
        {"space": "./" + "c" * 300 + ".yaml"},
        {"cache": {"directory": "d" * 300}},
        {"calibration": {"path": "e" * 300}},
        {"calibration": {"dataset": "./" + "e" * 300}},
        {"evaluators": {"perplexity": {"path": "f" * 300}}},
        {"evaluators": {"similarity": {"embedder": "./" + "g" * 300}}},
        {"candidates": ["./" + "h" * 300]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_name_too_long_for_any_file_is_refused_with_its_key(changes: dict[str, Any]) -> None:
    """As every other path that cannot be, before a file system is asked."""
    with pytest.raises(ConfigError, match="file systems allow 255") as caught:
        config_from({"model": "a/b", **changes})
    assert str(caught.value.key).startswith(next(iter(changes)))
