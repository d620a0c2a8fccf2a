"""Held-out report texts: score the front on texts other than those that it was chosen on.

Of many trials the best look better on the texts that selected them than they are (the winner's curse).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from autotune.common.files import fingerprint
from autotune.errors import ConfigError
from autotune.evaluation import Evaluator, HeldOut, Measurement, Reference
from autotune.evaluation.texts.overlap import shared_parts
from autotune.study.trials.trial import Candidate, as_data, describe

if TYPE_CHECKING:
    from autotune.study.trials.scoring import Scorer


@dataclass(frozen=True)
class ReportTexts:
    """The study's evaluators on other texts: those of `report` in model.yaml, else what the evaluators hold out.

    Evaluators that decide nothing are left out unless `report` names them: their scores have no selection bias.

    Attributes:
        options: `report` of model.yaml.
        search: the evaluators of the search, by name.
        deciding: the names of those that objectives and constraints need.
        references_of: evaluators -> their references.
        scorer_of: (evaluators, references, stage) -> their scorer.
        calibration: returns the calibration windows as lists of tokens; empty if there are none.
        tokenizer: returns the model's tokenizer.
        notes: reasons why an evaluator has no report text.
    """

    options: Mapping[str, Mapping[str, Any]] | Literal[False] | None
    search: Mapping[str, Evaluator]
    deciding: Set[str]
    references_of: Callable[[Mapping[str, Evaluator]], Mapping[str, Reference]]
    scorer_of: Callable[[Mapping[str, Evaluator], Callable[[], Mapping[str, Reference]], Callable[[str], None]], Scorer]
    calibration: Callable[[], list[Any]]
    tokenizer: Callable[[], Any]
    notes: list[str] = field(default_factory=list, init=False)

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """Evaluator name -> the evaluator that scores on the report texts."""
        from autotune.evaluation.registry import create_evaluator

        options, found = self.options, {}
        for name, evaluator in self.search.items():
            if options is False:
                continue
            other = create_evaluator(name, options[name]) if options and name in options else None
            if other is None and name in self.deciding and isinstance(evaluator, HeldOut):
                other = evaluator.held_out()
                if other is None:
                    self.notes.append(
                        f"{name}: the search scores all of its texts; model.yaml's key report can name others"
                    )
            if other is not None:
                found[name] = other
        return found

    def fingerprint(self) -> str | None:
        """Fingerprint the report texts; None if there are none."""
        all_texts = {name: self._fingerprint(name, evaluator) for name, evaluator in self.evaluators.items()}
        texts = {name: text for name, text in all_texts.items() if text is not None}
        return fingerprint(texts) if texts else None

    def _fingerprint(self, name: str, evaluator: Evaluator) -> str | None:
        try:
            return evaluator.fingerprint()
        except ConfigError as error:  # the search scores the whole text
            self.notes.append(f"{name}: {error}")
            return None

    @cached_property
    def references(self) -> dict[str, Reference]:
        """Evaluator name -> its reference on the report texts; without the evaluators that have no text left."""
        found: dict[str, Reference] = {}
        for name, evaluator in self.evaluators.items():
            try:
                found |= self.references_of({name: evaluator})
            except ConfigError as error:
                self.notes.append(f"{name}: {error}")
        return found

    def describe(self) -> dict[str, Any]:
        """Score the original, and compare the texts.

        Returns:
            ``original``: its metrics as data; ``overlaps``: pair of texts -> share of the second that is part of the
            first; ``notes``: reasons why an evaluator is left out.
        """
        measured: dict[str, Measurement] = {}
        for name, reference in self.references.items():
            measured.update(self.evaluators[name].original(reference))
        overlaps = self._overlaps() if measured else {}
        return {"original": as_data(measured), "overlaps": overlaps, "notes": list(dict.fromkeys(self.notes))}

    @cached_property
    def _scorer(self) -> Scorer:
        # Silent: the search reports which model is being scored.
        return self.scorer_of(self._evaluators_with_texts(), lambda: self.references, lambda text: None)

    def scores(self, candidate: Candidate) -> dict[str, Any]:
        """Score one model; returns ``metrics`` as data, or ``error``."""
        try:
            measured = self._scorer.candidate(candidate)
        except Exception as error:  # as in a trial: an error costs this model's scores, not the study
            return {"error": describe(error)}
        return {"metrics": as_data(measured)}

    def _evaluators_with_texts(self) -> dict[str, Evaluator]:
        return {name: self.evaluators[name] for name in self.references}

    def _overlaps(self) -> dict[str, float]:
        """Measure how much the calibration, search and report texts have in common; see `shared_parts`."""
        return shared_parts(
            {
                "calibration": self.calibration(),
                "search": self._passages(self.search),
                "report": self._passages(self._evaluators_with_texts()),
            }
        )

    def _passages(self, evaluators: Mapping[str, Evaluator]) -> list[Any]:
        tokenizer = self.tokenizer()
        return [
            passage
            for evaluator in evaluators.values()
            if isinstance(evaluator, HeldOut)
            for passage in evaluator.passages(tokenizer)
        ]
