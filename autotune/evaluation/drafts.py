"""Greedy answers along drafts: what one forward pass along a draft tells of the answer, and the rest of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.evaluation.protocol import LanguageModel, Visit

__all__ = ["answers_along", "complete_answers", "follow_draft"]


def follow_draft(
    best: Sequence[int], draft: Sequence[int], max_new_tokens: int, end_token_ids: Collection[int]
) -> tuple[list[int], bool]:
    """Derive a greedy answer from the tokens that a model prefers along a draft, up to the first disagreement.

    Args:
        best: the preferred tokens, len(draft) + 1; ``best[i]`` after the prompt and ``draft[:i]``.
        draft: token ids without an end-of-text token.
        max_new_tokens: largest length of the answer, at least that of the draft.
        end_token_ids: the tokens that end an answer.

    Returns:
        The answer (the draft up to the disagreement, then the token preferred there, without an end-of-text token),
        and True if it is complete. If False, the model has to continue from prompt + answer.

    Raises:
        ValueError: the draft is longer than `max_new_tokens`.
    """
    if len(draft) > max_new_tokens:
        raise ValueError(f"a draft of {len(draft)} tokens is longer than max_new_tokens={max_new_tokens}")
    answer: list[int] = []
    for row, token in enumerate(best):
        if len(answer) == max_new_tokens or token in end_token_ids:
            return answer, True
        answer.append(token)
        if row == len(draft) or token != draft[row]:
            break
    return answer, len(answer) == max_new_tokens


def complete_answers(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    begun: Sequence[tuple[Sequence[int], bool]],
    drafts: Sequence[Sequence[int]],
    limits: Sequence[int],
) -> list[list[int]]:
    """Decode the rests of greedy answers, all together.

    Args:
        model: the model.
        prompts: token ids, at least one each.
        begun: the results of `follow_draft`.
        drafts: texts that the answers may share passages with.
        limits: longest answers in tokens.
    """
    answers = [list(answer) for answer, _ in begun]
    unfinished = [index for index, (_, finished) in enumerate(begun) if not finished]
    rests = model.greedy_batch(
        [[*prompts[index], *answers[index]] for index in unfinished],
        [limits[index] - len(answers[index]) for index in unfinished],
        [drafts[index] for index in unfinished],
    )
    for index, rest in zip(unfinished, rests, strict=True):
        answers[index] += rest
    return answers


def answers_along(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    drafts: Sequence[Sequence[int]],
    visit: Visit,
) -> list[list[int]]:
    """Do what `LanguageModel.greedy_batch` does with `visit`, for a model that cannot go back in its cache.

    The passes along the drafts and the decoding are two calls, so that prompts are computed twice.
    """
    cut = [draft[: max(limit - 1, 0)] for draft, limit in zip(drafts, limits, strict=True)]
    preferred: list[list[int]] = [[] for _ in prompts]
    sequences = [[*prompt, *draft] for prompt, draft in zip(prompts, cut, strict=True)]
    for index, position, logits in model.scan(sequences, [len(prompt) - 1 for prompt in prompts]):
        preferred[index] += logits.argmax(axis=-1).tolist()
        visit(index, position, logits)
    begun = [
        follow_draft(best, draft, limit, model.end_token_ids)
        for best, draft, limit in zip(preferred, cut, limits, strict=True)
    ]
    return complete_answers(model, prompts, begun, drafts, limits)
