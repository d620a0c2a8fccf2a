"""The report texts: what a front is scored on that was chosen on other texts, so that luck in choosing shows.

The winner's curse: of many trials the best look better on the texts that they were chosen by than they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint
from autotune.errors import ConfigError
from autotune.evaluation import Evaluator, HeldOut, Measurement, Reference
from autotune.evaluation.texts.overlap import shared_parts
from autotune.study.trials.trial import Candidate, as_data, describe

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.study.session import Preparation
    from autotune.study.trials.scoring import Scorer

__all__ = ["ReportTexts"]


class ReportTexts:
    """The study's evaluators on other texts: those that model.yaml names under `report`, else what they know of.

    Attributes:
        notes: why an evaluator has no report text.
    """

    def __init__(self, prepared: Preparation) -> None:
        self._prepared = prepared
        self.notes: list[str] = []

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """Evaluator name -> the one that scores on the report texts."""
        from autotune.evaluation.registry import create_evaluator

        given, found = self._prepared.config.report, {}
        for name, evaluator in self._prepared.evaluators.items():
            if given is False:
                continue
            other = create_evaluator(name, given[name]) if given and name in given else None
            if other is None and isinstance(evaluator, HeldOut):
                other = evaluator.held_out()
                if other is None:
                    self.notes.append(
                        f"{name}: the search scores all of its texts; model.yaml's key report can name others"
                    )
            if other is not None:
                found[name] = other
        return found

    def fingerprint(self) -> str | None:
        """Changes with the report texts; None where there are none."""
        found = {name: self._fingerprint(name, evaluator) for name, evaluator in self.evaluators.items()}
        known = {name: text for name, text in found.items() if text is not None}
        return fingerprint(known) if known else None

    def _fingerprint(self, name: str, evaluator: Evaluator) -> str | None:
        try:
            return evaluator.fingerprint()
        except ConfigError as error:  # nothing is left of a text after the part that the search scores
            self.notes.append(f"{name}: {error}")
            return None

    @cached_property
    def references(self) -> dict[str, Reference]:
        """Evaluator name -> what it keeps of the original on the report texts; without those that have none left."""
        found: dict[str, Reference] = {}
        for name, evaluator in self.evaluators.items():
            try:
                found |= self._prepared.references_of({name: evaluator})
            except ConfigError as error:
                self.notes.append(f"{name}: {error}")
        return found

    def describe(self) -> dict[str, Any]:
        """What is known before any model is scored.

        Returns:
            ``original``: its metrics as data; ``overlaps``: pair of texts -> the share of the second that stands in
            the first; ``notes``: why an evaluator is left out.
        """
        measured: dict[str, Measurement] = {}
        for name, reference in self.references.items():
            measured.update(self.evaluators[name].original(reference))
        overlaps = self.overlaps() if measured else {}
        return {"original": as_data(measured), "overlaps": overlaps, "notes": list(dict.fromkeys(self.notes))}

    @cached_property
    def scorer(self) -> Scorer:
        """Scores models on the report texts, and keeps the scores as those of the search are kept."""
        evaluators = {name: self.evaluators[name] for name in self.references}
        return self._prepared.scorer_of(evaluators, lambda: self.references, _quiet)

    def scores(self, settings: Settings) -> dict[str, Any]:
        """``metrics`` of one model as data, or ``error``."""
        engine = self._prepared.engine
        try:
            measured = self.scorer.candidate(Candidate(engine, engine.plan(settings), _quiet))
        except Exception as error:  # as in a trial: whatever goes wrong costs this model's scores, not the study
            return {"error": describe(error)}
        return {"metrics": as_data(measured)}

    def overlaps(self) -> dict[str, float]:
        """How much of the calibration, search and report texts are the same; see `overlap.shared_parts`."""
        prepared = self._prepared
        reported = {name: self.evaluators[name] for name in self.references}
        learned = prepared.needs_calibration and not prepared.config.calibration.synthetic
        return shared_parts(
            {
                "calibration": prepared.calibration_windows.tolist() if learned else [],
                "search": self._passages(prepared.evaluators),
                "report": self._passages(reported),
            }
        )

    def _passages(self, evaluators: Mapping[str, Evaluator]) -> list[Any]:
        tokenizer = self._prepared.tokenizer
        return [
            passage
            for evaluator in evaluators.values()
            if isinstance(evaluator, HeldOut)
            for passage in evaluator.passages(tokenizer)
        ]


def _quiet(_: str) -> None:
    """The search tells which model's turn it is; what happens to it is not worth a line."""
