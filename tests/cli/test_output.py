"""Output of commands."""

from __future__ import annotations

import pytest

from autotune.cli.output import print_plan
from autotune.study.planning.dry_run import DryRun, PlannedPoint


def test_a_plan_says_each_note_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes as a table; what holds for several points stands below it, once, with names of layers."""
    note = "upper bound"
    points = [PlannedPoint("int8_asym", {}, 4_000_000, True, 3.95, 8.08, 0.0, ())]
    points += [
        PlannedPoint(f"a budget of {bits} bits", {"budget": bits}, 1_000_000 * bits, False, 7.0, bits, None, (note,))
        for bits in (4, 5, 6)
    ]
    weight = "self.model.embed_tokens._openvino_orig_weight: no gptq"
    points.append(PlannedPoint("smallest", {}, 2_000_000, True, 7.7, 4.1, 0.0, (weight,)))
    print_plan(DryRun("m", 8_000_000, 30, 4_000_000, 12, 5, 5, 40, tuple(points), ()), "int4")
    lines = capsys.readouterr().out.splitlines()
    assert sum(note in line for line in lines) == 1
    assert [line.split()[5] for line in lines if line.startswith("a budget")] == ["(1)"] * 3
    assert "<= 5,000,000" in next(line for line in lines if "5 bits" in line)
    assert "(2) embed_tokens: no gptq" in lines
