"""Fixtures of the allocation tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import openvino as ov

from autotune.allocation.choices import Menus
from autotune.allocation.probe import Probe, Texts
from autotune.compression.engine import Engine

TEXT = (
    "At noon the ferry takes the post across, four sacks and a crate of pears; the clerk writes down each of them. "
    "Twice a week there is ice, in March there are eels, and on Sundays nobody rows at all. 'Count again', says the "
    "clerk, 'for seventeen pears went in and sixteen came out.' Der Fluss weiss es. La riviere ne dit rien.\n"
)


class World(NamedTuple):
    """The original, its engine, and texts with their references."""

    model: ov.Model
    tokenizer: Any
    engine: Engine
    menus: Menus
    probe: Probe
    texts: Texts
