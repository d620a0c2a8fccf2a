"""Prompts from files of every format, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

import evaluators
from autotune.errors import ConfigError
from autotune.evaluation.texts.prompts import is_english, read_prompts

PROMPTS = ["Who?", 'What is "it", then?', "Où est-elle ?"]
FILES = {
    "lines.txt": 'Who?\n\n  What is "it", then?  \r\nOù est-elle ?\n',
    "strings.jsonl": '"Who?"\n"What is \\"it\\", then?"\n\n"Où est-elle ?"\n',
    "objects.jsonl": '{"id": 1, "prompt": "Who?"}\n{"prompt": "What is \\"it\\", then?"}\n{"text": "Où est-elle ?"}\n',
    "list.yaml": "- Who?\n- 'What is \"it\", then?'\n- prompt: Où est-elle ?\n",
    "mapping.yml": "prompts:\n  - Who?\n  - 'What is \"it\", then?'\n  - Où est-elle ?\n",
    "list.json": '["Who?", "What is \\"it\\", then?", "Où est-elle ?"]',
    "bare.csv": 'Who?\n"What is ""it"", then?"\nOù est-elle ?\n',
    "named.csv": 'id,Prompt\n1,Who?\n2,"What is ""it"", then?"\n3,Où est-elle ?\n',
    "named.tsv": 'id\tprompt\n1\tWho?\n2\t"What is ""it"", then?"\n3\tOù est-elle ?\n',
}


@pytest.mark.parametrize("name", FILES)
def test_the_same_prompts_come_from_every_format(tmp_path: Path, name: str) -> None:
    """Lines, JSON lines, YAML, JSON and CSV can all say the same; blank prompts and spaces around them do not count."""
    file = tmp_path / name
    file.write_text(FILES[name], encoding="utf-8")
    assert read_prompts(file) == PROMPTS


def test_a_prompt_may_have_several_lines(tmp_path: Path) -> None:
    """In a CSV cell or a JSON string a line break belongs to the prompt."""
    table, lines = tmp_path / "p.csv", tmp_path / "p.jsonl"
    table.write_text('prompt\n"def f():\n    pass"\n')
    lines.write_text('{"prompt": "def f():\\n    pass"}\n')
    assert read_prompts(table) == read_prompts(lines) == ["def f():\n    pass"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", "\n \n", "contains no prompts"),
        ("none.jsonl", "", "contains no prompts"),
        ("cut.jsonl", '{"prompt": "Who?"}\n{"prompt": ', "line 2"),
        ("other.jsonl", '{"answer": 3}\n', "the key prompt is needed"),
        ("scalar.yaml", "Who?", "a list is needed"),
        ("broken.yaml", "- 'Who?\n", "not YAML"),
        ("wide.csv", "id,wording\n1,Who?\n", r"several columns \(id, wording\)"),
    ],
)
def test_files_without_prompts_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    """A file of another format, or without prompts, is one ConfigError with the name of the file."""
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_prompts(file)
    assert caught.value.file == file


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    """A file that is not there or not text is said to be so."""
    with pytest.raises(ConfigError, match="does not exist"):
        read_prompts(tmp_path / "nowhere.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_prompts(tmp_path / "latin.txt")


@pytest.mark.parametrize("name", ["default", "report"])
def test_the_languages_of_the_built_in_prompts_are_told_apart(name: str) -> None:
    """Six of them are in six other languages; "Kraków" in an English sentence is none."""
    prompts = read_prompts(Path(evaluators.__file__).parent / "prompts" / f"{name}.txt")
    assert [is_english(prompt) for prompt in prompts].count(False) == 6
    assert all(is_english(prompt) for prompt in prompts if "Kraków" in prompt)
