"""A whole search beside the same settings by NNCF, each scored as WhoWhatBench does it: seconds, and both fronts.

    python benchmarks/search.py ours --model DIR --calibration FILE --text FILE --work DIR   # 48 trials, three times
    python benchmarks/search.py nncf --work DIR
    python benchmarks/search.py table --work DIR

`ours` runs `autotune search` over the preset `full` with everything else at its default (but for the texts and for the
embedder, where there is no hub): with an empty cache, with a warm one without scores, and with the scores, too. Its
seconds are those of the whole command. `nncf` takes the same settings one by one: `nncf.compress_weights` with a
`statistics_path`, the model saved, optimum-intel's `generate` on one prompt after the other, embeddings and their
cosine. Its seconds are of those calls alone; reading libraries, and the divergence for the front, are left out. Beside
seconds stand those of all cores together, which a busy machine changes less. What is
done is kept in DIR, so the work can be done in pieces: the same command with `--seconds` goes on. Each piece of `ours`
scores its front, so a run in one piece costs less. `nncf --every 3` takes a third of the settings, for which `table`
multiplies its seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common  # noqa: F401  the import path
import numpy as np

from autotune.common.cache import Cache
from autotune.common.files import atomic_write
from autotune.compression.settings import Settings
from autotune.models.source import SourceModel, resolve_model
from autotune.results.front.pareto import hypervolume, nondominated

CONFIG = """\
model: {model}
calibration: {{path: {calibration}}}
space: full
evaluators:
  similarity: {{embedder: {embedder}}}
  perplexity: {{path: {text}, sequence_length: 512, samples: 16}}
study: {{trials: {trials}{workers}}}
"""
"""Everything that has a default has it; the default texts are on the hub, the number of windows is theirs."""

TIMES = "ours.json"
RUNS = {"cold": ("models", "statistics", "references", "bank"), "warm": ("references/scores",), "known": ()}
"""Files and folders that are deleted before each run."""


def ours(options: argparse.Namespace) -> None:
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    source = resolve_model(str(options.model), cache=Cache.resolve(work / "export"))
    config = CONFIG.format(
        model=source.path,
        calibration=options.calibration.absolute(),
        text=options.text.absolute(),
        embedder=options.embedder,
        trials=options.trials,
        workers="" if options.workers is None else f", workers: {options.workers}",
    )
    (work / "model.yaml").write_text(config, encoding="utf-8")
    begun = time.monotonic()
    for name in [options.only] if options.only else RUNS:
        left = options.seconds - (time.monotonic() - begun)
        if left > 0 and not times(work).get(name, {}).get("finished"):
            run(work, name, left)


def run(work: Path, name: str, seconds: float) -> None:
    """Begin one of the runs, or go on with it, for so long at most."""
    cache, folder = work / "cache", work / name
    runs = times(work)
    if name not in runs:
        for room in RUNS[name]:
            shutil.rmtree(cache / room, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "autotune", "search", str(work / "model.yaml"), "--output", str(folder), "--json"]
    command += ["--timeout", f"{seconds:.0f}s"] if seconds < 1e6 else []
    started, cores = time.perf_counter(), cpu_seconds(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env={**os.environ, "AUTOTUNE_CACHE": str(cache)}, capture_output=True, text=True, check=False
    )
    so_far = runs.get(name, {})
    elapsed = so_far.get("seconds", 0.0) + time.perf_counter() - started
    cpu = so_far.get("cpu", 0.0) + cpu_seconds(resource.RUSAGE_CHILDREN) - cores
    if done.returncode:
        sys.exit(done.stderr)
    finished = json.loads(done.stdout)["ended"] != "timeout"
    with atomic_write(work / TIMES) as temporary:
        temporary.write_text(json.dumps({**runs, name: {"seconds": elapsed, "cpu": cpu, "finished": finished}}))
    print(f"{name}: {elapsed:.1f} s{'' if finished else ' so far'}; {done.stderr.strip()}", flush=True)


def cpu_seconds(of: int) -> float:
    """Seconds on any core, of this process or of its children that have ended."""
    used = resource.getrusage(of)
    return used.ru_utime + used.ru_stime


def times(work: Path) -> dict[str, Any]:
    """Run -> its seconds so far, and whether it is finished."""
    file = work / TIMES
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def trials_of(folder: Path) -> list[dict[str, Any]]:
    """The study's trials that did work of their own: settings, state, values, similarity, held-out KL."""
    import optuna

    from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url
    from autotune.study.storage.history import History
    from autotune.study.workers.front import FRONT, REPORT

    storage = connect(database_url(folder / DATABASE))
    study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    history = History(study.get_trials(deepcopy=False))
    of_front, of_report = (study.user_attrs.get(name, {}).get("trials", {}) for name in (FRONT, REPORT))
    close(storage)

    def value(stored: dict[str, Any], trial: optuna.trial.FrozenTrial, metric: str) -> float | None:
        found: float | None = stored.get(str(trial.number), {}).get("metrics", {}).get(metric, {}).get("value")
        return found

    return [
        {
            "trial": trial.number,
            "settings": trial.user_attrs["settings"],
            "state": trial.state.name,
            "values": trial.values,
            "similarity": value(of_front, trial, "similarity"),
            "held_out": value(of_report, trial, "kl_divergence"),
        }
        for trial in history.finished
    ]


class Peer:
    """NNCF and WhoWhatBench's way of scoring, for one original."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read what both sides have read before they begin: libraries, model, texts."""
        import nncf
        import torch
        import yaml
        from optimum.intel import OVModelForCausalLM

        from autotune.evaluation.texts.sources import token_windows
        from evaluators._embedder import embed
        from evaluators.perplexity import Perplexity
        from evaluators.similarity import Similarity

        del nncf
        config = yaml.safe_load((options.work / "model.yaml").read_text())
        self.options, self.torch, self.loader = options, torch, OVModelForCausalLM
        self.source: SourceModel = resolve_model(config["model"], cache=Cache.resolve(options.work / "export"))
        self.tokenizer = self.source.tokenizer()
        text = Path(config["calibration"]["path"]).read_text(encoding="utf-8")
        self.windows = token_windows(self.tokenizer, [text], sequence_length=512, samples=128)
        similarity = Similarity(**config["evaluators"]["similarity"])
        self.prompts: list[str] = similarity._prompts
        self.limit = similarity.options.max_new_tokens
        self.perplexity = Perplexity(**config["evaluators"]["perplexity"])
        held_out = self.perplexity.held_out()
        assert held_out is not None, "model.yaml gives samples"
        self.held_out = held_out
        self.embed: Callable[[Sequence[str]], Any] = lambda texts: embed(similarity.options.embedder, texts)

    def answers(self, model: Any) -> list[str]:
        """Greedy answers, one prompt after the other."""
        texts = []
        for prompt in self.prompts:
            tokens = self.tokenizer(prompt, return_tensors="pt")
            given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            out = model.generate(**given, max_new_tokens=self.limit, do_sample=False, pad_token_id=0)
            texts.append(self.tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
        return texts

    def reference(self) -> dict[str, Any]:
        """The original's answers and their embeddings, with the seconds they take."""
        model = self.loader.from_pretrained(self.source.path)
        started, cores = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
        texts = self.answers(model)
        self.original = self.embed(texts)
        seconds, cpu = time.perf_counter() - started, cpu_seconds(resource.RUSAGE_SELF) - cores
        with self.compiled(self.source.path) as original:
            self.divergences = self.perplexity.reference(original)
            self.of_held_out = self.held_out.reference(original)
        return {"reference": True, "generate": seconds, "cpu": cpu}

    def compiled(self, model: Any) -> Any:
        """A model ready for the evaluator of the divergence."""
        from autotune.models.runtime.compile import end_token_ids
        from autotune.models.runtime.language_model import OpenVINOLanguageModel

        ends = end_token_ids(self.source.path, self.tokenizer)
        return OpenVINOLanguageModel(model, self.tokenizer, eos_token_ids=ends)

    def measure(self, settings: Settings, folder: Path) -> dict[str, Any]:
        """One setting: seconds of each step, similarity; then, not timed, the divergence."""
        import openvino as ov
        from peer import nncf_compress

        original = self.source.read()
        cached = settings.needs_calibration and not settings.mode.startswith("int8")
        started, cores = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
        try:
            statistics = self.options.work / "nncf-statistics" if cached else None
            model = nncf_compress(original, settings, self.windows, statistics=statistics)
        except Exception as error:  # what NNCF does not do costs it nothing here
            model, refused = None, f"{type(error).__name__}: {error}"
        else:
            refused = "not supported"
        compressed = time.perf_counter()
        if model is None:
            return {"refused": refused[:300], "compress": compressed - started}
        for file in self.source.path.glob("*.json"):
            shutil.copy(file, folder)
        ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
        saved = time.perf_counter()
        loaded_model = self.loader.from_pretrained(folder)
        loaded = time.perf_counter()
        texts = self.answers(loaded_model)
        generated = time.perf_counter()
        similarity = float((self.embed(texts) * self.original).sum(axis=1).mean())
        ended, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF) - cores
        with self.compiled(model) as candidate:
            divergence = self.perplexity.evaluate(candidate, self.divergences)["kl_divergence"].value
            held_out = self.held_out.evaluate(candidate, self.of_held_out)["kl_divergence"].value
        return {
            "compress": compressed - started,
            "save": saved - compressed,
            "load": loaded - saved,
            "generate": generated - loaded,
            "embed": ended - generated,
            "cpu": cpu,
            "similarity": similarity,
            "kl_divergence": divergence,
            "held_out": held_out,
            "footprint": (folder / "openvino_model.bin").stat().st_size,
        }


def nncf(options: argparse.Namespace) -> None:
    file = options.work / "nncf.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    finished = {line["trial"] for line in done if "trial" in line}
    chosen = [trial for trial in trials_of(options.work / "cold") if trial["trial"] % options.every == 0]
    left = [trial for trial in chosen if trial["trial"] not in finished]
    begun = time.monotonic()
    with file.open("a", encoding="utf-8") as stream:

        def write(line: dict[str, Any]) -> None:
            print(json.dumps(line), file=stream, flush=True)

        peer = Peer(options)
        reference = peer.reference()
        if not any("reference" in line for line in done):
            write(reference)
        while left and time.monotonic() - begun < options.seconds:
            trial = left.pop(0)
            given = trial["settings"]
            tuples = {name: tuple(given[name]) for name in ("ignored_scope", "codebook")}
            settings = Settings(**{**given, **tuples})
            with tempfile.TemporaryDirectory() as folder:
                measured = peer.measure(settings, Path(folder))
            write({"trial": trial["trial"], "settings": trial["settings"], **measured})
    print(f"{len(left)} settings are left")


STEPS = ("compress", "save", "load", "generate", "embed")


def table(options: argparse.Namespace) -> None:
    lines = [json.loads(line) for line in (options.work / "nncf.jsonl").read_text().splitlines()]
    trials = {trial["trial"]: trial for trial in trials_of(options.work / "cold")}
    lines = [line for line in lines if line.get("trial", -1) in trials or "reference" in line]
    scored = [line for line in lines if "kl_divergence" in line]
    refused = [line for line in lines if "refused" in line]
    steps = {step: sum(line.get(step, 0.0) for line in lines) for step in STEPS}
    total = sum(steps.values())
    parts = ", ".join(f"{step} {seconds:.0f}" for step, seconds in steps.items())
    cores = sum(line.get("cpu", 0.0) for line in lines)
    share = len(scored) + len(refused)
    print(f"NNCF and WhoWhatBench's way: {total:.0f} s ({cores:.0f} of cores): {parts}")
    print(f"these are {share} settings of {len(trials)}, {len(refused)} of them refused")
    once = next({"seconds": line["generate"], "cpu": line["cpu"]} for line in lines if "reference" in line)
    total, cores = (
        alone + (value - alone) * len(trials) / share
        for value, alone in ((total, once["seconds"]), (cores, once["cpu"]))
    )
    print(f"for as many settings as autotune's: {total:.0f} s ({cores:.0f} of cores)")
    for name, took in times(options.work).items():
        about = "" if took["finished"] else " (not finished)"
        seconds, cpu = took["seconds"], took.get("cpu", float("nan"))
        times_faster = f"{total / seconds:.1f} ({cores / cpu:.1f} by cores) times faster"
        print(f"autotune search, {name}{about}: {seconds:.1f} s ({cpu:.0f} of cores), {times_faster}")
    both = [trials[line["trial"]] for line in lines if "trial" in line]  # settings that NNCF ran, too
    points = {
        "autotune": np.array([[*t["values"], t["held_out"]] for t in both if t["state"] == "COMPLETE"], np.float64),
        "NNCF": np.array([[line["kl_divergence"], line["footprint"], line["held_out"]] for line in scored], np.float64),
    }
    fronts = {name: values[nondominated(values[:, :2])] for name, values in points.items()}
    ours_values = fronts["autotune"][:, :2].tolist()
    on_front = [t for t in trials.values() if t["values"] and list(t["values"]) in ours_values]
    similar = sum(trial["similarity"] is not None for trial in on_front)
    print(f"front of autotune: {len(on_front)} trials, {similar} of them with a similarity")
    compare_volumes("KL", {name: values[:, :2] for name, values in fronts.items()})
    reported = {name: values[np.isfinite(values[:, 2])][:, [2, 1]] for name, values in fronts.items()}
    counts = (f"{len(reported[side])} of {len(front)} of {side}" for side, front in fronts.items())
    print(f"with held-out scores: {', '.join(counts)}")
    compare_volumes("held-out KL", reported)
    for line in refused:
        print(f"refused: {line['settings']['mode']} {line['refused'][:120]}")


def compare_volumes(name: str, fronts: dict[str, np.ndarray]) -> None:
    """Print the hypervolumes of fronts [[divergence, bytes]], each axis between its least and 1.1 of its spread."""
    scales = {name: lambda values: values, f"log {name}": lambda values: np.log(np.maximum(values, 1e-6))}
    for title, scale in scales.items():
        scaled = {side: np.column_stack([scale(front[:, 0]), front[:, 1]]) for side, front in fronts.items()}
        every = np.concatenate(list(scaled.values()))
        low, spread = every.min(axis=0), np.ptp(every, axis=0)
        volumes = {side: hypervolume((front - low) / spread, np.full(2, 1.1)) for side, front in scaled.items()}
        print(f"hypervolume by {title} and bytes: " + ", ".join(f"{side} {v:.4f}" for side, v in volumes.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"ours": ours, "nncf": nncf, "table": table}
    parser.add_argument("command", choices=commands)
    parser.add_argument("--work", type=Path, required=True, help="a folder that keeps what is done")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--text", type=Path, help="what scores come from")
    parser.add_argument("--embedder", default="minilm")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--workers", type=int, help="other than the default, to see what that would cost")
    parser.add_argument("--every", type=int, default=1, help="`nncf` takes each trial whose number this divides")
    parser.add_argument("--only", choices=RUNS, help="one of the runs of `ours`")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further trial or setting after this")
    options = parser.parse_args()
    commands[options.command](options)


if __name__ == "__main__":
    main()
