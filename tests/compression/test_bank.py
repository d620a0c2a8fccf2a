from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autotune.compression.bank import Bank, Entry

KEY = "ab" * 16


def entry(seed: int = 0, size: int = 100) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.integers(0, 256, size, dtype=np.uint8),
        "scale": rng.normal(size=(3, 2)).astype(np.float16),
        "zero_point": np.empty(0, np.uint8),
    }


def forbidden() -> Entry:
    pytest.fail("computed what was there")


def same(a: Entry, b: Entry) -> bool:
    return set(a) == set(b) and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_memory_answers_the_second_time() -> None:
    """Without a folder, an entry is kept in memory."""
    bank = Bank()
    first = bank.get_or_compute(KEY, entry)
    assert same(bank.get_or_compute(KEY, forbidden), first)
    assert bank.counters == {"computed": 1, "reused": 1}


def test_disk_answers_another_bank(tmp_path: Path) -> None:
    """Another bank over the same folder reads the same arrays: types, shapes (empty ones too) and bytes."""
    Bank(tmp_path).get_or_compute(KEY, entry)
    other = Bank(tmp_path)
    assert same(other.get_or_compute(KEY, forbidden), entry())
    assert other.counters == {"computed": 0, "reused": 1}


def test_keys_are_apart(tmp_path: Path) -> None:
    """Every key has its own entry."""
    bank = Bank(tmp_path)
    for seed in range(3):
        bank.get_or_compute(f"{seed}" * 32, lambda seed=seed: entry(seed))
    assert all(same(Bank(tmp_path).get_or_compute(f"{s}" * 32, forbidden), entry(s)) for s in range(3))


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(data)


def flip_a_byte_of_the_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[12] ^= 0x10
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_byte, flip_a_byte_of_the_header, cut_short, empty])
def test_damaged_entry_counts_as_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """It is computed again, with a warning that names the file, and the file is whole afterwards."""
    Bank(tmp_path).get_or_compute(KEY, entry)
    (path,) = files(tmp_path)
    damage(path)
    bank = Bank(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert same(bank.get_or_compute(KEY, entry), entry())
    assert bank.counters == {"computed": 1, "reused": 0}
    assert str(path) in caplog.text
    assert same(Bank(tmp_path).get_or_compute(KEY, forbidden), entry())


def test_no_flipped_bit_gets_through(tmp_path: Path) -> None:
    """Whichever byte of a file changes, header or data, the arrays that come back are the right ones."""
    Bank(tmp_path).get_or_compute(KEY, lambda: entry(size=20))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    logging.disable(logging.WARNING)
    try:
        for position in range(len(whole)):
            data = bytearray(whole)
            data[position] ^= 1 << position % 8
            path.write_bytes(data)
            assert same(Bank(tmp_path).get_or_compute(KEY, lambda: entry(size=20)), entry(size=20))
    finally:
        logging.disable(logging.NOTSET)


def test_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    """An error passes through, and neither memory nor disk has an entry."""

    def fails() -> Entry:
        raise RuntimeError("no")

    bank = Bank(tmp_path)
    with pytest.raises(RuntimeError, match="no"):
        bank.get_or_compute(KEY, fails)
    assert files(tmp_path) == []
    bank.get_or_compute(KEY, entry)
    assert bank.counters == {"computed": 1, "reused": 0}


def test_a_disk_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The entry is returned and remembered, and a warning says that it is not on disk."""
    (tmp_path / "bank").write_text("a file where the folder should be")
    bank = Bank(tmp_path / "bank")
    with caplog.at_level(logging.WARNING):
        assert same(bank.get_or_compute(KEY, entry), entry())
    assert "could not be written" in caplog.text
    assert same(bank.get_or_compute(KEY, forbidden), entry())


def key(i: int) -> str:
    return f"{i:032x}"[::-1]


def test_entries_unused_for_the_longest_time_go_first(tmp_path: Path) -> None:
    """Beyond its size the folder loses the oldest entries; reading one makes it young again."""
    bank = Bank(tmp_path, limit=10_000)
    for i in range(4):
        bank.get_or_compute(key(i), lambda: entry(size=2_000))
        os.utime(next(tmp_path.rglob(f"{key(i)}.safetensors")), (1000 + i, 1000 + i))
    assert len(files(tmp_path)) == 4
    Bank(tmp_path, limit=10_000).get_or_compute(key(0), forbidden)
    bank.get_or_compute(key(4), lambda: entry(size=2_000))
    kept = {path.stem for path in files(tmp_path)}
    assert key(0) in kept
    assert key(4) in kept
    assert key(1) not in kept
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_000


def test_folder_of_an_earlier_run_counts(tmp_path: Path) -> None:
    """The size is that of the folder, not of what this process wrote."""
    for i in range(6):
        Bank(tmp_path).get_or_compute(key(i), lambda: entry(size=2_000))
    Bank(tmp_path, limit=5_000).get_or_compute(key(7), lambda: entry(size=2_000))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 5_000


def test_several_processes_share_one_limit(tmp_path: Path) -> None:
    """Each counts what the others write: together they stay within the limit, and none removes too much."""
    banks = [Bank(tmp_path, limit=100_000) for _ in range(4)]
    sizes = []
    for i in range(120):
        banks[i % 4].get_or_compute(key(i), lambda: entry(size=2_000))
        sizes.append(sum(path.stat().st_size for path in files(tmp_path)))
    assert max(sizes) <= 100_000
    assert min(sizes[60:]) >= 85_000


def test_without_weights_in_memory_only_small_entries_stay() -> None:
    """Channel scales and errors are at hand when they are asked for again; a weight is computed again."""
    bank = Bank(weights_in_memory=False)
    scale, weight = {"scale": np.ones(4096, np.float32)}, {"weight": np.ones(1 << 17, np.uint8)}
    for _ in range(2):
        bank.get_or_compute("aa", lambda: scale)
        bank.get_or_compute("bb", lambda: weight)
    assert bank.counters == {"computed": 3, "reused": 1}


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Only as many entries as fit are held; the others come from disk, and the newest one is always held."""
    bank = Bank(tmp_path, memory_limit=5_000)
    for i in range(5):
        bank.get_or_compute(key(i), lambda: entry(size=2_000))
    for path in files(tmp_path):
        path.unlink()
    bank.get_or_compute(key(4), forbidden)
    bank.get_or_compute(key(0), lambda: entry(size=2_000))
    assert bank.counters["computed"] == 6
    big = Bank(memory_limit=10)
    big.get_or_compute(KEY, entry)
    assert same(big.get_or_compute(KEY, forbidden), entry())


def test_memory_forgets_what_was_unused_for_the_longest_time() -> None:
    """Of three entries where two fit, the one that was asked for again stays."""
    bank = Bank(memory_limit=5_000)
    for i in (0, 1, 0, 2):
        bank.get_or_compute(key(i), lambda: entry(size=2_000))
    bank.get_or_compute(key(0), forbidden)
    assert bank.counters == {"computed": 3, "reused": 2}


def write_many(folder: Path, barrier: threading.Barrier) -> dict[str, int]:
    """Compute the same twenty entries as everybody else."""
    bank = Bank(folder)
    for i in range(20):
        barrier.wait()
        bank.get_or_compute(key(i), lambda i=i: entry(i, size=5_000))
    return bank.counters


ANOTHER_PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_bank import entry, key
from autotune.compression.bank import Bank
for _ in range(20):
    bank = Bank(Path(sys.argv[2]), memory_limit=0, limit=60_000)
    for i in range(20):
        bank.get_or_compute(key(i), lambda: entry(i, size=5_000))
    for path in list(Path(sys.argv[2]).rglob("*.safetensors"))[::3]:
        path.unlink(missing_ok=True)
"""


def test_processes_may_write_and_remove_entries_at_once(tmp_path: Path) -> None:
    """Two processes that write, read, evict and remove the same entries: no error, no warning, no wrong byte."""
    command = [sys.executable, "-W", "error", "-c", ANOTHER_PROCESS, str(Path(__file__).parent), str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=100)[1] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    reader = Bank(tmp_path)
    assert all(
        same(reader.get_or_compute(key(i), lambda i=i: entry(i, size=5_000)), entry(i, size=5_000)) for i in range(20)
    )
    assert {path.suffix for path in files(tmp_path)} == {".safetensors"}


def test_threads_may_write_one_entry_at_once(tmp_path: Path) -> None:
    """Two banks that compute the same entries at the same time leave whole ones and no temporary files."""
    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=write_many, args=(tmp_path, barrier)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = Bank(tmp_path)
    assert all(same(reader.get_or_compute(key(i), forbidden), entry(i, size=5_000)) for i in range(20))
    assert len(files(tmp_path)) == 20


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts the open files that Linux lists")
def test_entries_in_memory_hold_no_files(tmp_path: Path) -> None:
    """However many entries come from disk, no file stays open: a study has more of them than a process may open."""
    keys = [f"{number:04x}" for number in range(64)]
    first, second = Bank(tmp_path), Bank(tmp_path)
    for key in keys:
        first.get_or_compute(key, lambda: {"a": np.arange(9)})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for key in keys:
        second.get_or_compute(key, dict)
    assert second.counters == {"computed": 0, "reused": 64}
    assert len(list(Path("/proc/self/fd").iterdir())) == before
