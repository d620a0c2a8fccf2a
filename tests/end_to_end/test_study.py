"""The main job as a user runs it: search, continue, kill, export, evaluate, report."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from commands import Command, run_here, start
from demo_study import rows, write_config

from autotune.common.files import read_tensors

Done = CompletedProcess[str]
IN_PROCESS = ("--workers", "0")


def test_a_search_ends_with_the_front_and_the_paths(searched: Done, workplace: Path) -> None:
    """The command exits with 0, prints the front, a recommendation and existing paths on stdout, progress on stderr."""
    assert searched.returncode == 0, searched.stderr
    assert "on the front" in searched.stdout
    assert re.search("the knee|recommended", searched.stdout)
    for path in re.findall(r"study/[\w./-]+", searched.stdout):
        assert (workplace / path).exists(), path
    assert "[8/8]" in searched.stderr
    assert "Traceback" not in searched.stderr


def test_the_study_folder_holds_what_it_should(searched: Done, workplace: Path) -> None:
    """Every file of the design is there, and trials.csv has the named columns first."""
    folder = workplace / "study"
    names = ["model.yaml", "trials.csv", "front.csv", "front.md", "report.md", "manifest.json", "study.db"]
    assert [name for name in names if not (folder / name).is_file()] == []
    assert (folder / "plots" / "front.png").read_bytes().startswith(b"\x89PNG")
    found = rows(folder)
    assert list(found[0])[:6] == ["trial", "settings", "state", "on_front", "knee", "feasible"]
    named = ("plan", "mode", "group_size", "ratio", "backup_mode", "sensitivity_metric", "all_layers", "scored_on")
    assert {*named} <= {*found[0]}
    complete = [row for row in found if row["state"] == "COMPLETE" and not row["duplicate_of"]]
    assert len(complete) == 8
    assert all(float(row["kl_divergence"]) >= 0 for row in complete)
    # A model that others beat on the objectives need not answer prompts, too.
    assert all(float(row["similarity"]) <= 1.0001 for row in complete if row["similarity"])
    assert all(row["similarity"] for row in rows(folder, "front.csv"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert "INFERENCE_PRECISION_HINT" in json.dumps(manifest)


def test_the_footprint_of_a_trial_is_the_size_of_its_exported_bin(
    searched: Done, workplace: Path, run: Command, tmp_path: Path
) -> None:
    """Exported, every model of the front has the size and (evaluated alone) the scores of its trial."""
    front = rows(workplace / "study", "front.csv")
    assert len(front) >= 2
    for row in front[:2]:
        out = tmp_path / f"trial-{row['trial']}"
        exported = run("export", "study", str(out), "--trial", row["trial"])
        assert exported.returncode == 0, exported.stderr
        assert (out / "openvino_model.bin").stat().st_size == int(row["footprint"])
        scored = run("evaluate", str(out), "--config", "model.yaml", "--json")
        assert scored.returncode == 0, scored.stderr
        measured = json.loads(scored.stdout)
        for metric in ("kl_divergence", "perplexity", "similarity"):
            assert measured[metric]["value"] == pytest.approx(float(row[metric]), rel=1e-6, abs=1e-9)


def test_the_same_command_again_finds_nothing_left_to_do(searched: Done, workplace: Path, run: Command) -> None:
    """A finished study stays as it is."""
    before = rows(workplace / "study")
    again = run("search", "model.yaml", *IN_PROCESS)
    assert again.returncode == 0
    assert rows(workplace / "study") == before


def test_a_second_study_starts_warm(searched: Done, workplace: Path, run: Command) -> None:
    """The same space in a new folder computes no statistics, no reference and no variant again."""
    warm = run("search", "model.yaml", "--output", "warm", *IN_PROCESS)
    assert warm.returncode == 0, warm.stderr
    counts = re.findall(r"(\w+) (\d+) computed, (\d+) reused", warm.stderr)
    assert {what: int(computed) for what, computed, _ in counts} == {"statistics": 0, "references": 0, "variants": 0}
    scores = [(row["plan"], row["kl_divergence"], row["footprint"]) for row in rows(workplace / "study")]
    assert [(row["plan"], row["kl_divergence"], row["footprint"]) for row in rows(workplace / "warm")] == scores
    assert re.search(r"variants 0 computed, 0 reused; scores 0 measured, [1-9]\d* known", warm.stderr), warm.stderr


def test_where_every_score_is_known_no_model_is_made(
    searched: Done, workplace: Path, tmp_path: Path, tiny_llama_hf: Path
) -> None:
    """Nor for the report texts: with an empty bank, a study whose scores are known compresses no weight."""
    write_config(tmp_path, tiny_llama_hf)
    shutil.copytree(workplace / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("bank"))
    done = run_here(tmp_path, "search", "model.yaml", *IN_PROCESS, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    report = (workplace / "study" / "report.md").read_text(encoding="utf-8")
    assert "report texts" in report
    columns = ("plan", "state", "kl_divergence", "similarity", "report_kl_divergence")
    own, others = rows(tmp_path / "study"), rows(workplace / "study")
    assert [[row[name] for name in columns] for row in own] == [[row[name] for name in columns] for row in others]
    kept = (tmp_path / "cache" / "bank").rglob("*.safetensors")
    assert not [file for file in kept if "weight" in read_tensors(file)]


def test_without_its_scores_a_study_is_the_same(
    searched: Done, workplace: Path, tmp_path: Path, tiny_llama_hf: Path
) -> None:
    """Measured again with a warm bank, every trial has state and scores of the study whose scores were known."""
    write_config(tmp_path, tiny_llama_hf)
    shutil.copytree(workplace / "cache", tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "references" / "scores")
    done = run_here(tmp_path, "search", "model.yaml", *IN_PROCESS, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    counts = r"variants 0 computed, [1-9]\d* reused; scores [1-9]\d* measured, 0 known"
    assert re.search(counts, done.stderr), done.stderr
    columns = ("plan", "state", "kl_divergence", "similarity", "footprint", "on_front")
    own, others = rows(tmp_path / "study"), rows(workplace / "study")
    assert [[row.get(name) for name in columns] for row in own] == [[r.get(name) for name in columns] for r in others]


def test_a_killed_search_goes_on_without_repeating_a_trial(
    tmp_path: Path, workplace: Path, tiny_llama_hf: Path, run: Command, searched: Done
) -> None:
    """SIGKILL in the middle loses at most the trial in flight; the continued study has the plans of a whole one."""
    write_config(tmp_path, tiny_llama_hf)
    process = start(tmp_path, "search", "model.yaml", cache=workplace / "cache")
    deadline = time.monotonic() + 120
    for line in process.stderr:
        if line.startswith("[3/8]") or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    continued = run("search", "model.yaml", *IN_PROCESS, folder=tmp_path)
    assert continued.returncode == 0, continued.stderr
    found = [row for row in rows(tmp_path / "study") if row["state"] == "COMPLETE" and not row["duplicate_of"]]
    plans = [row["plan"] for row in found]
    assert len(plans) == 8
    assert len(set(plans)) == 8
    assert plans == [
        row["plan"] for row in rows(workplace / "study") if row["state"] == "COMPLETE" and not row["duplicate_of"]
    ]


def test_a_damaged_cache_is_never_read(tmp_path: Path, workplace: Path, tiny_llama_hf: Path, searched: Done) -> None:
    """Every file of the cache cut short or with one bit flipped: a new study computes again and has the same scores."""
    write_config(tmp_path, tiny_llama_hf, trials=4)
    shutil.copytree(workplace / "cache", tmp_path / "cache")
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size)
    for index, path in enumerate(files):
        data = bytearray(path.read_bytes())
        if index % 2:
            data[len(data) // 2] ^= 1
        path.write_bytes(data if index % 2 else data[: len(data) // 2])
    done = run_here(tmp_path, "search", "model.yaml", *IN_PROCESS, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr
    scores = {row["plan"]: (row["kl_divergence"], row["similarity"]) for row in rows(workplace / "study")}
    found = [row for row in rows(tmp_path / "study") if row["state"] == "COMPLETE"]
    assert len(found) == 4
    for row in found:
        divergence, similarity = scores[row["plan"]]
        assert row["kl_divergence"] == divergence
        assert row["similarity"] == similarity or not (row["similarity"] and similarity)  # of each study's own front


def test_two_workers_give_the_same_scores(tmp_path: Path, workplace: Path, tiny_llama_hf: Path, searched: Done) -> None:
    """With the export alone, and half the threads for each: the scores of one worker to the bit, each plan once."""
    write_config(tmp_path, tiny_llama_hf)
    shutil.copytree(workplace / "cache" / "models", tmp_path / "cache" / "models")
    done = run_here(tmp_path, "search", "model.yaml", "--workers", "2", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    found = [row for row in rows(tmp_path / "study") if row["state"] == "COMPLETE" and not row["duplicate_of"]]
    assert len({row["plan"] for row in found}) == len(found) == 8
    scores = {row["plan"]: (row["kl_divergence"], row["similarity"]) for row in rows(workplace / "study")}
    common = [row for row in found if row["plan"] in scores]
    assert len(common) >= 4
    for row in common:
        divergence, similarity = scores[row["plan"]]
        assert row["kl_divergence"] == divergence
        assert row["similarity"] == similarity or not (row["similarity"] and similarity)
    assert "statistics 1 computed" in done.stderr
    assert "references 3 computed" in done.stderr


def test_report_rebuilds_the_same_files(searched: Done, workplace: Path, run: Command) -> None:
    """`autotune report` gives the bytes that another process wrote, from the storage alone."""
    folder = workplace / "study"
    names = ("trials.csv", "front.csv", "front.md", "report.md", "plots/front.png")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    assert run("report", "study").returncode == 0
    assert {name: (folder / name).read_bytes() for name in names} == before
