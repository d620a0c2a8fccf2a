"""What a study asks of whoever has model, engine, texts and evaluators, so that a test can answer in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.evaluation import Measurement, Metric
    from autotune.study.trials.racing import Race
    from autotune.study.trials.trial import Candidate, Engine

__all__ = ["Prepared"]


class Prepared(Protocol):
    """What a study needs of model, engine and evaluators; `preparation.Preparation` is the real one."""

    @property
    def engine(self) -> Engine:
        """Plans and applies settings."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric that `score` measures."""

    def fingerprints(self) -> dict[str, str]:
        """Subject -> fingerprint: model, tokenizer, calibration, ``evaluators.<name>``; see `storage.SUBJECTS`."""

    def original(self) -> dict[str, Any]:
        """The original model: footprint, bits_per_weight, fp32_bytes, metrics; the study's schema."""

    def score(self, candidate: Candidate, race: Race | None) -> Mapping[str, Measurement]:
        """The metrics of a trial's model: all of them, or what it takes to know that it is beaten.

        What is known from earlier is not measured again; where that is everything, the model is not even made.

        Raises:
            Beaten: see `Race.check`.
        """

    def manifest(self) -> dict[str, Any]:
        """Versions, machine, hashes, seeds, runtime properties."""

    def counts(self) -> dict[str, tuple[int, int]]:
        """What was (computed, found ready): statistics, references, variants, scores."""

    def report_fingerprint(self) -> str | None:
        """Changes with the report texts, on which the front is scored in the end; None where there are none."""

    def report_texts(self) -> dict[str, Any]:
        """What the report texts are and what the original scores on them; see `ReportTexts.describe`."""

    def report_scores(self, settings: Settings) -> dict[str, Any]:
        """The scores of one model on the report texts, as data; see `ReportTexts.scores`."""

    def settle_in(self, shared: Callable[[], AbstractContextManager[None]]) -> None:
        """Called in a worker process before all else: time to import what will be needed.

        Args:
            shared: to be entered around work that is not one trial's own but what all trials wait for; it has all
                cores.
        """

    def found(self) -> Any:
        """What it took time to find out and can be told to other workers of the same study, see `adopt`."""

    def adopt(self, found: Any) -> None:
        """Take over what another worker's `found` returned."""
