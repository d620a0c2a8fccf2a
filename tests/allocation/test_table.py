"""Predictions: what one measurement says of other variants, what pairs add, and what findings cost a second time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from small_world import World

from autotune.allocation.allocator import Allocator, protections
from autotune.allocation.choices import Choice, Menus, default_settings, make_menus
from autotune.allocation.error_table import ErrorTable, block_of, corrected_by, limits, pair_terms, solve
from autotune.compression.ir.layout import Variant


def test_other_variants_follow_from_the_measured_one_nearest_in_error(world: World) -> None:
    """One measurement scales all output errors; a second one takes over what is nearer to it."""
    name, choices = next(iter(world.menus.choices.items()))
    errors = tuple(float(4 ** (len(choices) - i)) if c.variant else 0.0 for i, c in enumerate(choices))
    table = ErrorTable(world.menus, {name: errors}, {name: {1: 2 * errors[1]}})
    assert table.costs(name) == pytest.approx([2 * error for error in errors])
    again = table.with_measured(name, 0, 3 * errors[0])
    assert again.costs(name) == pytest.approx([3 * errors[0], *(2 * error for error in errors[1:])])


def test_the_pairs_of_a_block_are_what_the_square_of_a_sum_has_beside_its_squares() -> None:
    """Divergence is quadratic: errors in the same direction add up before they are squared."""
    contributions = {"model.layers.0.q.weight": 4.0, "model.layers.0.k.weight": 9.0, "model.layers.1.q.weight": 1.0}
    assert pair_terms(contributions) == {"model.layers.0.": pytest.approx((2 + 3) ** 2 - 4 - 9)}
    assert block_of("lm_head.weight") == "lm_head.weight"
    assert block_of("model.layers.11.mlp.up") != block_of("model.layers.1.mlp.up")


def test_a_choice_costs_beside_the_others_what_it_changes_of_the_whole() -> None:
    """The linear problem that is solved for one weight at a time has the differences of the quadratic prediction."""
    names = ("model.layers.0.q.weight", "model.layers.0.k.weight", "model.layers.1.q.weight")
    four, eight = Variant("int4_asym", 32), Variant("int8_asym")
    menu = (Choice(four, 10), Choice(eight, 20), Choice(None, 40))
    table = ErrorTable(
        Menus(dict.fromkeys(names, menu), ()),
        dict.fromkeys(names, (8.0, 0.5, 0.0)),
        {name: {0: 0.3 + 0.2 * index} for index, name in enumerate(names)},
        pairs={"model.layers.0.": 0.4},
    )
    chosen = dict(zip(names, (four, eight, four), strict=True))
    costs = table.beside(table.contributions(chosen))
    for name in names:
        for index, choice in enumerate(menu):
            others = {other: variant for other, variant in chosen.items() if other != name}
            changed = others if choice.variant is None else {**others, name: choice.variant}
            difference = costs[name][index] - costs[name][table.index(name, chosen[name])]
            assert table.predicted(changed) - table.predicted(chosen) == pytest.approx(difference)


def test_pairs_that_cost_are_learned(world: World, allocator: Allocator) -> None:
    """Plans made up with a tenth of each block's pairs on top are predicted after the fit, and not before."""
    plain = replace(allocator.table, correction={}, pairs={})
    blocks = {block_of(name) for name in world.menus.choices}
    truth = plain.corrected({}, dict.fromkeys(blocks, 0.1))
    plans = [solve(world.engine, plain, limit).variants for limit in limits(world.engine, plain, 9)[:-1]]
    measured = [truth.predicted(plan) for plan in plans]
    fitted = corrected_by(plain, plans, measured)
    before = [abs(plain.predicted(plan) / value - 1) for plan, value in zip(plans, measured, strict=True)]
    after = [abs(fitted.predicted(plan) / value - 1) for plan, value in zip(plans, measured, strict=True)]
    assert max(before) > 0.1
    assert max(after) < 0.03
    again = corrected_by(fitted, plans, measured)
    assert [again.predicted(plan) for plan in plans] == pytest.approx([fitted.predicted(plan) for plan in plans])


def test_what_was_measured_once_is_found_in_the_bank(world: World, allocator: Allocator) -> None:
    """A second allocator needs no probe, and knows the same."""

    def probe() -> None:
        raise AssertionError("everything is in the bank")

    again = Allocator(world.engine, world.menus, probe, short=world.texts, full=world.texts)  # type: ignore[arg-type]
    first = Allocator(world.engine, world.menus, lambda: world.probe, short=world.texts, full=world.texts)
    assert again.table == first.table
    assert again.token_forwards == first.token_forwards > 0


def test_the_table_keeps_to_its_tokens(world: World) -> None:
    """Tokens that single measurements do not use go into second measurements, and no more."""
    once = world.texts.tokens
    count = len(world.menus.choices)
    frugal = Allocator(
        world.engine, world.menus, lambda: world.probe, short=world.texts, full=world.texts, tokens_per_weight=once
    )
    assert (frugal.measurements, frugal.token_forwards) == (count, count * once)
    more = Allocator(
        world.engine,
        world.menus,
        lambda: world.probe,
        short=world.texts,
        full=world.texts,
        tokens_per_weight=once + once // 2,
    )
    assert count < more.measurements <= count + count // 2


def test_a_weight_that_ruins_the_model_is_protected_and_named(world: World, allocator: Allocator) -> None:
    """A weight whose 8-bit error is a hundred times the usual stays uncompressed while the size allows it."""
    name = next(iter(world.menus.choices))
    expensive = {n: dict(m) for n, m in allocator.table.measured.items()}
    errors = {n: tuple(e) for n, e in allocator.table.errors.items()}
    expensive[name] = {index: 5.0 for index, choice in enumerate(world.menus.choices[name]) if choice.variant}
    table = ErrorTable(world.menus, errors, expensive)
    watching = Allocator.__new__(Allocator)
    watching.table = table
    assert list(watching.collapsing()) == [name]
    plan = solve(world.engine, table, world.engine.sizes.original)
    assert name not in plan.variants
    assert any(
        note.startswith(name) and "ruins the model" in note
        for note in protections(table, plan, watching.collapsing(), " nats a token")
    )
    forced = solve(world.engine, table, limits(world.engine, table, 2)[0])
    assert name in forced.variants
    assert any(note.startswith(name) for note in protections(table, forced, watching.collapsing(), " nats a token"))


@pytest.mark.parametrize("runtime_compressed", [True, False])
def test_what_the_cpu_would_expand_is_on_no_menu_unless_asked_for(world: World, runtime_compressed: bool) -> None:
    """int3 saves disk alone, and two bits are computed with in MatMuls only."""
    settings = default_settings(data_aware=True, small=["int2", "int3"])
    menus = make_menus(world.engine, settings, runtime_compressed=runtime_compressed)
    variants: list[tuple[str, Variant]] = [
        (name, choice.variant)
        for name, choice in itertools.chain.from_iterable(
            ((name, choice) for choice in choices) for name, choices in menus.choices.items()
        )
        if choice.variant is not None
    ]
    modes = {variant.mode for _, variant in variants}
    assert "int2_sym" in modes
    assert ("int3_sym" in modes) != runtime_compressed
    tables = [w.name for w in world.engine.weights if w.kind == "embedding"]
    assert any(n in tables and v.mode == "int2_sym" for n, v in variants) != runtime_compressed
