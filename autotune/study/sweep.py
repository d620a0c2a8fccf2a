"""Sweep: one study for each of several models, one after the other, and their comparison."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

    from autotune.config.config import Config
    from autotune.study.progress import Listener
    from autotune.study.view import Study

    Callback = Callable[[optuna.Study, FrozenTrial], None]

logger = logging.getLogger(__name__)

COMPARISON = "comparison"
"""Folder of the comparison, beside those of the studies."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Outcome of a search of several models.

    Attributes:
        studies: model -> its study, in the order of the file; without the models that failed.
        errors: model -> why it failed, in one paragraph.
        folder: folder of the comparison in tables, plot and page; None if no study has a front.
    """

    studies: Mapping[str, Study]
    errors: Mapping[str, str]
    folder: Path | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """The recommended trials of all studies, as `autotune.compare` returns them."""
        from autotune.reporting.compare import compare

        return compare([study.results for study in self.studies.values()]).frame


def sweep(
    config: str | Path | Mapping[str, Any] | Sequence[Config],
    *,
    trials: int | None = None,
    timeout: float | str | None = None,
    workers: int | None = None,
    output: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    effort: str | None = None,
    start_from: str | Path | None = None,
    target: str | Sequence[str] | None = None,
    fresh: bool = False,
    callbacks: Sequence[Callback | str] = (),
    open_page: bool = False,
    finished: Callable[[Study], None] = lambda study: None,
    progress: bool = True,
) -> Sweep:
    """Search several models with one space, and compare the studies; a model that fails does not end the others.

    A sweep that was interrupted, or had failures, continues by the same call: finished studies are only read. Ctrl-C
    ends it after the report of the current study.

    Args:
        config: a model.yaml with ``models`` in place of ``model``, its content as a dict, or one `autotune.Config` for
            each model, with folders side by side.
        output: folder for the studies and their comparison.
        finished: called with each study at its end.
        trials, timeout, workers, seed, overrides, effort, start_from, target, fresh, callbacks, open_page, progress: as
            for `autotune.search`, for each study.

    Returns:
        ``studies``, by model; ``errors``, those of failed models; ``folder`` of the comparison; ``frame``, its table.

    Raises:
        ConfigError: anything wrong with the configuration, for any of the models.

    Example:
        >>> import autotune
        >>> text = {"path": "examples/demo/search.txt", "sequence_length": 128, "samples": 4}
        >>> config = {"models": ["examples/demo/model"], "output": "sweep", "evaluators": {"perplexity": text}}
        >>> config |= {"space": {"mode": ["int8_asym", "int4_asym"], "group_size": 64}, "study": {"workers": 0}}
        >>> swept = autotune.sweep(config, trials=2, progress=False)
        >>> swept.errors, sorted(path.name for path in swept.folder.glob("*.html"))
        ({}, ['compare.html'])
    """
    from autotune.config.arguments import as_configs, changes_of
    from autotune.study.progress import listening

    given = [*overrides, *changes_of(target, effort, trials=trials, timeout=timeout, workers=workers, seed=seed)]
    configs = as_configs(config, given, output)
    studies: dict[str, Study] = {}
    errors: dict[str, str] = {}
    for each in configs:
        try:
            with listening(progress) as listener:
                study = search_model(
                    each, listener, start_from=start_from, fresh=fresh, callbacks=callbacks, open_page=open_page
                )
        except Exception as error:  # of whatever kind: hours of other models are still to come
            errors[each.model] = str(error) if isinstance(error, AutotuneError) else f"{type(error).__name__}: {error}"
            logger.debug("the search of %s failed", each.model, exc_info=error)
            continue
        studies[each.model] = study
        finished(study)
        if study.outcome is not None and study.outcome.interrupted:
            break
    return Sweep(studies, errors, _compare([*studies.values()], configs[0].output.parent / COMPARISON))


def search_model(
    config: Config,
    listener: Listener,
    *,
    storage: str | None = None,
    start_from: str | Path | None = None,
    fresh: bool = False,
    callbacks: Sequence[Callback | str] = (),
    open_page: bool = False,
) -> Study:
    """Search one model; arguments and errors of `autotune.search`."""
    from autotune.reporting.trackers import trackers
    from autotune.study.run import run_search
    from autotune.study.view import Study

    start = None if start_from is None else Path(start_from)
    with trackers(callbacks) as called:
        outcome = run_search(
            config,
            listener=listener,
            fresh=fresh,
            storage=storage,
            start_from=start,
            callbacks=called,
            open_page=open_page,
        )
    return Study(outcome.report.results, outcome.folder, storage, outcome)


def _compare(studies: Sequence[Study], folder: Path) -> Path | None:
    """Write tables, plot and page of the studies that have a front; None if there is none."""
    results = [study.results for study in studies if study.results.front]
    if not results:
        return None
    from autotune.reporting import across
    from autotune.reporting.compare import compare, write_comparison

    comparison = compare(results)
    write_comparison(comparison, folder)
    across.write_report(comparison, folder)
    return folder
