"""Every family of models, exported by optimum-intel, goes through the whole engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import distance, logits
from families import FAMILIES, VOCABULARY

TOKENS: npt.NDArray[np.int64] = np.random.default_rng(5).integers(1, VOCABULARY, (4, 40), dtype=np.int64)


@pytest.fixture(scope="module")
def original(family_folder: Callable[[str], Path]) -> Callable[[str], ov.Model]:
    """The exported model of a family."""
    return cache(lambda name: ov.Core().read_model(family_folder(name) / "ov" / "openvino_model.xml"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_is_the_model(
    family: str, family_folder: Callable[[str], Path], original: Callable[[str], ov.Model]
) -> None:
    """The exported graph gives the logits that transformers gives, so that what is compressed is the family."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(family_folder(family) / "hf", dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    assert len(np.unique(expected.argmax(axis=-1))) > 20
    assert distance(expected, logits(original(family), TOKENS)) < 1e-5
