"""Hostile files: headers that lie, paths and links that lead out of a folder, caches that anybody can write."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from autotune.common.cache import Cache
from autotune.common.files import DAMAGE, read_tensors, write_tensors
from autotune.common.paths import slug
from autotune.errors import ConfigError, StudyError, UsageError
from autotune.models.checkpoint import check_json, check_openvino, read_header, weight_files
from autotune.models.companions import companions
from autotune.reporting.folder import rebuild_report, write_report, write_text
from autotune.results.plans import plan_file, read_plan

HUGE = 2**63
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, Any] = {
    "offsets beyond the file": {"a": {**ENTRY, "data_offsets": [0, HUGE]}},
    "negative offsets": {"a": {**ENTRY, "data_offsets": [-8, 0]}},
    "reversed offsets": {"a": {**ENTRY, "shape": [-2], "data_offsets": [8, 0]}},
    "overlapping tensors": {"a": ENTRY, "b": ENTRY},
    "a gap": {"a": {**ENTRY, "shape": [1], "data_offsets": [4, 8]}},
    "a shape of other size": {"a": {**ENTRY, "shape": [HUGE, HUGE]}},
    "negative lengths": {"a": {**ENTRY, "shape": [-1, -2]}},
    "an infinite length": '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}',
    "offsets that are no integers": {"a": {**ENTRY, "data_offsets": [0.0, 8.0]}},
    "offsets that are texts": {"a": {**ENTRY, "data_offsets": ["0", "8"]}},
    "three offsets": {"a": {**ENTRY, "data_offsets": [0, 4, 8]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "a list": [ENTRY],
    "a text": '"header"',
    "a number": "7",
    "null": "null",
    "an entry that is a text": {"a": "F32"},
    "brackets without end": "[" * 100_000,
    "a number of a million digits": '{"a": ' + "9" * 1_000_000 + "}",
    "other bytes": b"\xff\xfe\x00",
}


def packed(header: Any, length: int | None = None) -> bytes:
    """A safetensors file of 8 bytes of data with this header."""
    text = header if isinstance(header, (str, bytes)) else json.dumps(header)
    content = text if isinstance(text, bytes) else text.encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content + bytes(8)


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, what: str) -> None:
    """By the reader of models and by that of the cache, by name and without reading what it points at."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(packed(HEADERS[what]))
    with pytest.raises(ConfigError, match="model"):
        read_header(file)
    with pytest.raises(DAMAGE):
        read_tensors(file)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32, 2**63, 2**64 - 1])
def test_a_length_that_lies_reserves_no_memory(tmp_path: Path, length: int) -> None:
    """The first 8 bytes of a safetensors file are the length of its header."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(packed({"a": ENTRY}, length))
    with pytest.raises(ConfigError, match="model"):
        read_header(file)
    with pytest.raises(DAMAGE):
        read_tensors(file)


def test_a_right_header_is_accepted(tmp_path: Path) -> None:
    """The tables above fail for the fault that they name."""
    import numpy as np

    file = tmp_path / "model.safetensors"
    file.write_bytes(packed({"a": ENTRY}))
    assert read_header(file)["a"].shape == (2,)
    write_tensors(file, {"a": np.ones(2, np.float32)})
    assert read_tensors(file)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '{"n": ' + "9" * 5_000 + "}", '"\\ud800"'])
def test_json_that_no_parser_likes_is_refused(tmp_path: Path, text: str) -> None:
    """Depth and digits beyond the limits of Python's parser."""
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="config"):
        check_json(file)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "..\\secret.safetensors"]
)
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, name: str) -> None:
    """Not those beside it, above it or anywhere else."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(packed({"a": ENTRY}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConfigError, match="outside the model's folder"):
        weight_files(folder)


def test_links_out_of_a_model_are_not_copied(tmp_path: Path) -> None:
    """A private file behind the name of a tokenizer's file would be published; links of the hub stay."""
    (tmp_path / "id_rsa").write_text("PRIVATE")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.json").write_text("{}")
    assert [file.name for file in companions(folder)] == ["vocab.json"]
    (folder / "merges.txt").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(ConfigError, match="outside the model's folder"):
        list(companions(folder))
    hub = tmp_path / "models--a--b"
    for part in ("blobs", "snapshots/1234"):
        (hub / part).mkdir(parents=True)
    (hub / "blobs" / "0f0f").write_text("{}")
    (hub / "snapshots" / "1234" / "vocab.json").symlink_to("../../blobs/0f0f")
    assert [file.name for file in companions(hub / "snapshots" / "1234")] == ["vocab.json"]


@pytest.mark.parametrize(
    "data",
    [
        '<data element_type="f32" offset="18446744073709551600" size="32" shape="8" />',
        '<data size="4096" element_type="f32" offset="1000000" shape="1024" />',
        "<data offset='1000000'\n size='4096' element_type='f32' shape='1024' />",
        '<data offset = "1000000" size = "4096" />',
    ],
)
def test_constants_beyond_the_weights_are_refused(tmp_path: Path, data: str) -> None:
    """Whatever the order and form of the attributes; the sum of offset and size may exceed 64 bits."""
    (tmp_path / "openvino_model.xml").write_text(f'<net name="m"><layers>{data}</layers></net>')
    (tmp_path / "openvino_model.bin").write_bytes(bytes(64))
    with pytest.raises(ConfigError, match="is cut off"):
        check_openvino(tmp_path / "openvino_model.xml", tmp_path / "openvino_model.bin")


def test_a_constant_larger_than_its_bytes_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    """OpenVINO itself compares a constant's shape with its bytes."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    xml = folder / "openvino_model.xml"
    text = xml.read_text()
    start = text.index('shape="', text.index('type="Const"'))
    end = text.index('"', start + 7)
    xml.write_text(f'{text[:start]}shape="4096, 4096{text[end:]}')
    with pytest.raises(RuntimeError):
        ov.Core().read_model(xml)


@pytest.mark.parametrize("key", ["../../secret", "/etc/passwd", "..", "a/../../secret", ""])
def test_a_plans_key_stays_in_the_studys_folder(tmp_path: Path, key: str) -> None:
    """A key comes from the storage, which others may write."""
    (tmp_path / "secret.json").write_text('{"variants": {}}')
    study = tmp_path / "study"
    assert plan_file(study, key).parent == study / "plans"
    assert read_plan(study, key) is None


def test_names_of_metrics_and_models_stay_in_the_studys_folder(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plots are named after metrics, folders after models."""
    monkeypatch.setattr("autotune.reporting.plots.style.save_figure", lambda figure, path: write_text(path, "drawn"))
    evil = "../../../evil"
    results = make(trials=8, failing=(), objectives={evil: "maximize", "footprint": "minimize"}, extra_metrics=(evil,))
    inside = tmp_path / "a" / "b" / "study"
    write_report(results, inside)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(inside)]
    assert outside == []
    assert any("evil" in path.name for path in (inside / "plots").iterdir())
    mask = os.umask(0o077)
    os.umask(mask)
    written = [path for path in inside.rglob("*") if path.is_file()]
    assert os.name == "nt" or {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o666 & ~mask}
    for model in ("../..", "/", "..", "a/..", "~", "C:\\..\\x", "a\x00b"):
        assert "/" not in slug(model)
        assert not slug(model).startswith(".")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_a_report_changes_the_studys_folder_only(tmp_path: Path, fake: Any) -> None:
    """A folder from elsewhere may hold a link in place of ``plots``, or another program's database as study.db."""
    study, outside = tmp_path / "study", tmp_path / "outside"
    study.mkdir()
    outside.mkdir()
    fake.build(f"sqlite:///{study / 'study.db'}", trials=3)
    (study / "plots").symlink_to(outside)
    with pytest.raises(StudyError, match="plots: this is a link"):
        rebuild_report(study)
    assert not any(outside.iterdir())
    (tmp_path / "foreign").mkdir()
    database = tmp_path / "foreign" / "study.db"
    for statement in ("CREATE TABLE bookmarks (url TEXT)", "DROP TABLE bookmarks"):
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement)
        before = database.read_bytes()
        with pytest.raises(StudyError, match="holds no study"):
            rebuild_report(database.parent)
        assert database.read_bytes() == before
        assert [path.name for path in database.parent.iterdir()] == ["study.db"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_cache_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    """The remedies in the message work: permissions, or a folder inside it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    for mode in (0o777, 0o1777, 0o707):
        shared.chmod(mode)
        with pytest.raises(UsageError, match="can be written by every user"):
            Cache.resolve(shared)
    assert Cache.resolve(shared / "autotune").directory == shared / "autotune"
    for mode in (0o775, 0o755, 0o700):
        shared.chmod(mode)
        assert Cache.resolve(shared).directory == shared


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_shared_temporary_folders_show_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything in the system's temporary folder lies in a folder of mode 0700, also under a permissive umask."""
    import ast
    import tempfile

    root = Path(__file__).parents[2]
    for path in (*(root / "autotune").rglob("*.py"), *(root / "evaluators").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert '"/tmp' not in text, path
        used = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
        imported = {
            name.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and node.module == "tempfile"
            for name in node.names
        }
        assert not (used | imported) & {"mktemp", "mkstemp", "NamedTemporaryFile", "gettempdir"}, path
    before = os.umask(0)
    try:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    finally:
        os.umask(before)
