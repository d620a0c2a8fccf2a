"""Mutation score of the modules that decide what is scored, chosen and stored.

    python tests/seeded_faults/mutants.py                          # every module, 40 mutants of each
    python tests/seeded_faults/mutants.py pareto --count 1000      # all mutants of one module
    python tests/seeded_faults/mutants.py --seconds 300            # go on for five minutes; run again to continue

A mutant is the module with one small change of its syntax tree: another comparison, operator or boolean, a number one
higher, a negated condition, a result that is None, a statement left out. It is killed if a test of the module fails.
Texts, annotations, assertions (`strict=True` is one) and module constants (tuning figures) are not changed. The seeded
faults beside this file are chosen by hand and may concern several modules; mutants are drawn at random from a few.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from run import ENDLESS, LEFT_OUT, ROOT, preload, replace, run_tests

RUN = "tests/study/test_run.py::test_"
MODULES: dict[str, tuple[str, ...]] = {
    "autotune/results/front/pareto.py": ("tests/results/front/test_pareto.py",),
    "autotune/results/front/selection.py": ("tests/results/front/test_selection.py", "tests/results/test_effects.py"),
    "autotune/compression/knapsack.py": ("tests/compression/test_knapsack.py",),
    "autotune/compression/algorithms/gptq.py": ("tests/compression/algorithms/test_gptq.py",),
    "autotune/evaluation/scores.py": ("tests/evaluation/test_scores.py",),
    "autotune/evaluation/sequential.py": ("tests/evaluation/test_sequential.py",),
    "evaluators/_divergence.py": ("tests/evaluators/test_divergence.py",),
    "autotune/study/trials/racing.py": ("tests/study/trials/test_racing.py",),
    "autotune/results/storage.py": (
        "tests/results/test_load.py",
        "tests/study/test_faults.py::test_a_storage_that_changed_is_refused",
        "tests/study/storage/test_storages.py::test_opening_a_storage_disables_no_logger",
    ),
    "autotune/study/storage/history.py": (
        "tests/study/storage/test_history.py",
        f"{RUN}ctrl_c_ends_with_a_report_and_leaves_no_trace_after_continuing",
        f"{RUN}a_trial_queued_by_hand_runs_next",
        f"{RUN}a_failed_trial_is_recorded_and_the_study_goes_on",
    ),
    "autotune/study/storage/database.py": (
        "tests/study/storage/test_attributes.py",
        "tests/study/storage/test_storages.py",
        f"{RUN}two_searches_cannot_share_a_folder",
        f"{RUN}a_changed_study_is_refused_with_what_changed",
        f"{RUN}changed_content_under_the_same_name_is_refused",
        f"{RUN}a_damaged_storage_is_reported_and_left_alone",
        f"{RUN}a_forgotten_set_is_refused_before_any_model_is_loaded",
        f"{RUN}the_options_to_repeat_give_the_old_configuration",
    ),
    "autotune/study/storage/coordination.py": ("tests/study/storage/test_coordination.py",),
    "autotune/study/sampling/sampler.py": ("tests/study/sampling",),
    "autotune/compression/bank.py": ("tests/compression/test_bank.py",),
}
"""Modules and their tests, fastest first."""

LONGEST = 60
"""Seconds of processor time after which the tests of a mutant count as hanging, which kills it."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    one: other
    for pair in (
        (ast.Lt, ast.LtE),
        (ast.Gt, ast.GtE),
        (ast.Eq, ast.NotEq),
        (ast.In, ast.NotIn),
        (ast.Is, ast.IsNot),
        (ast.Add, ast.Sub),
        (ast.Mult, ast.Div),
        (ast.And, ast.Or),
    )
    for one, other in (pair, pair[::-1])
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Yield every mutant of a module: its line, the change in words, and the changed tree."""
    marked = [(number, node) for number, node in enumerate(ast.walk(tree)) if id(node) in inside_functions(tree)]
    for number, node in marked:
        for name, change in changes(node):
            copy = deepcopy(tree)
            target = next(each for count, each in enumerate(ast.walk(copy)) if count == number)
            change(target)
            yield getattr(node, "lineno", 0), name, copy


def inside_functions(tree: ast.Module) -> set[int]:
    """Find the nodes in the bodies of functions, without annotations, texts, raised errors and docstrings."""
    found: set[int] = set()

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):
            return
        if isinstance(node, ast.keyword) and node.arg == "strict":
            return
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            for statement in node.body if isinstance(node.body, list) else [node.body]:
                visit(statement, True)
            return
        if inside:
            found.add(id(node))
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, inside)

    visit(tree, False)
    return found


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield the changes of one node, as (description, function that changes it)."""

    def set_to(field: str, value: object) -> object:
        return lambda target: setattr(target, field, value)

    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            other = SWAPS[type(op)]
            yield f"{type(op).__name__} to {other.__name__}", set_to("ops", [other()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            other = SWAPS[type(op)]
            yield f"{type(op).__name__} to {other.__name__}", set_to("op", other())
        case ast.Constant(value=bool() as value):
            yield f"{value} to {not value}", set_to("value", not value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} to {value + 1}", set_to("value", value + 1)
        case ast.Name(id=name) if name in NAMES:
            yield f"{name} to {NAMES[name]}", set_to("id", NAMES[name])
        case ast.UnaryOp(op=ast.USub()):
            yield "without the minus", set_to("op", ast.UAdd())
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield "condition negated", set_to("test", ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[test]):
            yield "without the filter", set_to("ifs", [])
        case ast.Return(value=ast.AST() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "returns None", set_to("value", ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield "call left out", set_to("value", ast.Constant(None))
        case _:
            return


def main() -> int:
    """Run the mutants that are not in the journal; print survivors and scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of the modules' names; all by default")
    parser.add_argument("--count", type=int, default=40, help="mutants of each module")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after this time")
    parser.add_argument("--journal", type=Path, default=Path("mutants.jsonl"), help="results so far")
    parser.add_argument("--survivors", action="store_true", help="only run the survivors again")
    options = parser.parse_args()
    lines = options.journal.read_text(encoding="utf-8").splitlines() if options.journal.exists() else []
    journal = {(entry["module"], entry["mutant"]): entry for entry in map(json.loads, lines)}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        preload()
        for module, tests in MODULES.items():
            if options.modules and not any(name in module for name in options.modules):
                continue
            path = tree / module
            source = path.read_text(encoding="utf-8")
            every = list(mutants(ast.parse(source)))
            chosen = random.Random(module).sample(range(len(every)), min(options.count, len(every)))
            for number in chosen:
                line, name, mutant = every[number]
                words = f"{number}: {source.splitlines()[line - 1].strip()[:90]}: {name}"
                before = journal.get((module, words))
                if time.monotonic() - started > options.seconds or (
                    before is not None and not (options.survivors and before["survived"])
                ):
                    continue
                replace(path, ast.unparse(ast.fix_missing_locations(mutant)))
                code, output = run_tests(tree, tests, seconds=LONGEST)
                replace(path, source)
                entry = {"module": module, "mutant": words, "line": line, "survived": code == pytest.ExitCode.OK}
                if code in ENDLESS:
                    entry["note"] = "does not end"
                elif code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                    entry["note"] = output[-200:]
                journal[module, words] = entry
                with options.journal.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(entry) + "\n")
    for module in MODULES:
        found = [entry for entry in journal.values() if entry["module"] == module]
        if found:
            survivors = [entry for entry in found if entry["survived"]]
            killed = len(found) - len(survivors)
            print(f"{module}: {killed} of {len(found)} killed, {100 * killed / len(found):.0f}%")
            for entry in sorted(survivors, key=lambda entry: entry["line"]):
                print(f"    line {entry['line']}, {entry['mutant']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
