"""Texts are found to be the same exactly where they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autotune.evaluation.texts.overlap import BLOCK, shared_parts, shared_share


def text(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 1000, length).tolist()  # type: ignore[no-any-return]


@given(st.integers(0, 3 * BLOCK), st.integers(2 * BLOCK - 1, 5 * BLOCK))
def test_a_common_stretch_is_found_wherever_it_stands(before: int, length: int) -> None:
    """Cut differently, in the middle of other text: two blocks less a token are enough."""
    common = text(0, length)
    assert shared_share([text(1, before) + common], [text(2, 77) + common + text(3, 50)]) > 0.0


def test_other_texts_share_nothing_and_a_text_shares_all_with_itself() -> None:
    """The two ends of the scale; short texts count as a whole."""
    assert shared_share([text(0, 2000)], [text(1, 2000)]) == 0.0
    assert shared_share([text(0, 2000)], [text(0, 2000)]) == 1.0
    prompts = [text(seed, 5 + seed) for seed in range(8)]
    assert shared_share(prompts, prompts) == 1.0
    assert shared_share(prompts[:4], prompts[4:]) == 0.0
    assert shared_share([[1, 2, 3]], [[0, 1, 2, 3, 4]]) == 0.0
    assert shared_share([], [text(0, 9)]) == shared_share([[]], [[]]) == 0.0


def test_every_pair_is_told_and_sets_without_texts_are_left_out() -> None:
    """In the order given; a half that is common is half."""
    half = text(0, 512)
    found = shared_parts({"calibration": [], "search": [half], "report": [half, text(1, 512)], "more": [text(2, 99)]})
    assert found == {"search and report": 0.5, "search and more": 0.0, "report and more": 0.0}
