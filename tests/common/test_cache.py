"""Location of the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.common.cache import DEFAULT_LIMIT, ENVIRONMENT, ROOMS, Cache
from autotune.common.files import atomic_write, remove_leftovers, temporary_folder
from autotune.errors import UsageError


def test_an_argument_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is named wins over AUTOTUNE_CACHE, and that over the user's cache folder."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "environment"))
    assert Cache.resolve(tmp_path / "named").directory == tmp_path / "named"
    assert Cache.resolve().directory == tmp_path / "environment"


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_is_the_users_cache_folder(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AUTOTUNE_CACHE, or with an empty one, the cache is the platform's folder for this user."""
    from platformdirs import user_cache_dir

    monkeypatch.delenv(ENVIRONMENT, raising=False)
    if value is not None:
        monkeypatch.setenv(ENVIRONMENT, value)
    assert Cache.resolve().directory == Path(user_cache_dir("autotune", appauthor=False))
    assert Cache.resolve().limit == DEFAULT_LIMIT == 20 * 10**9


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache means the same folder wherever the process goes afterwards."""
    monkeypatch.chdir(tmp_path)
    cache = Cache.resolve("here", limit=5)
    assert (cache.directory, cache.limit) == (tmp_path / "here", 5)
    rooms = [cache.models, cache.statistics, cache.references, cache.bank, cache.distillation]
    assert rooms == [tmp_path / "here" / room for room in ROOMS]


def test_resolving_writes_nothing(tmp_path: Path) -> None:
    """Asking where the cache is makes no folder."""
    assert sum(Cache.resolve(tmp_path / "new").sizes().values()) == 0
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    """A file in the cache's place is refused before anything is written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        Cache.resolve(tmp_path / "file")


def test_what_killed_processes_left_is_removed_a_day_later(tmp_path: Path) -> None:
    """Files and folders with temporary names, of a killed export for instance; nothing younger; looks once a day."""
    cache = Cache.resolve(tmp_path)
    old, young, entry = (cache.bank / "ab" / name for name in (".k.1.tmp", ".k.2.tmp", "k.safetensors"))
    export = cache.models / ".model.3.tmp"
    for path in (old, young, entry, export / "openvino_model.bin"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")
    for path in (old, entry, export):
        os.utime(path, (0, 0))
    cache.remove_leftovers()
    assert [path.exists() for path in (old, export, young, entry)] == [False, False, True, True]
    os.utime(young, (0, 0))
    cache.remove_leftovers()
    assert young.exists()
    os.utime(tmp_path / ".leftovers-removed", (0, 0))
    cache.remove_leftovers()
    assert not young.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_what_a_killed_process_left_is_found_by_its_lock(tmp_path: Path) -> None:
    """Its unfinished file and folder; those of a process that goes on are kept."""
    path, plan = tmp_path / "model [a]", tmp_path / "plans" / "key.json"
    code = """import os, sys
from pathlib import Path
from autotune.common.files import atomic_write, temporary_folder
with temporary_folder(Path(sys.argv[1])), atomic_write(Path(sys.argv[2])) as part:
    part.write_text("unfinished")
    os.kill(os.getpid(), 9)"""
    assert subprocess.run([sys.executable, "-c", code, str(path), str(plan)], check=False).returncode == -9
    assert len([*tmp_path.rglob(".*.tmp")]) == 2
    other = tmp_path / ".model [b].12345678.tmp"
    other.mkdir()
    with temporary_folder(path) as running, temporary_folder(path) as second, atomic_write(plan) as part:
        part.write_text("whole")
        assert {*tmp_path.glob(".*.tmp")} == {running, second, other}
        remove_leftovers(tmp_path.rglob(".*.tmp"))
        assert {*tmp_path.rglob(".*.tmp")} == {running, second, part}
        second.replace(path)
    assert {*tmp_path.rglob("*")} == {path, plan.parent, plan}
    assert plan.read_text() == "whole"


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_a_cache_in_use_is_not_cleared(tmp_path: Path) -> None:
    """While another process computes with it; afterwards it is."""
    cache = Cache.resolve(tmp_path / "cache")
    (cache.bank / "ab").mkdir(parents=True)
    (cache.bank / "ab" / "entry").write_bytes(b"1234")
    code = (
        "import sys; from pathlib import Path; from autotune.common.cache import Cache\n"
        "def owner(): ...\n"
        "Cache(Path(sys.argv[1])).hold(owner); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(cache.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=r"is in use .* when that has ended"):
            cache.clear()
        user.communicate(b"\n")
    assert cache.clear() == 4


def test_clearing_frees_the_rooms_and_nothing_else(tmp_path: Path) -> None:
    """Clearing deletes what autotune put there, says how much, and leaves foreign files alone."""
    cache = Cache.resolve(tmp_path)
    (cache.bank / "deep").mkdir(parents=True)
    (cache.bank / "deep" / "variant").write_bytes(b"1234")
    (tmp_path / "mine.txt").write_text("keep")
    assert cache.sizes() == {"models": 0, "statistics": 0, "references": 0, "bank": 4, "distillation": 0}
    assert cache.clear() == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]
