"""Faults in evaluators, results, reports, configuration, models and texts."""

from __future__ import annotations

from fault import Fault

__all__ = ["RESULTS"]

RESULTS = [
    Fault(
        "perplexity-targets",
        "evaluators/perplexity.py",
        "window[start + 1 : start + 1 + len(logits)]",
        "window[start : start + len(logits)]",
        "tests/evaluators/test_perplexity.py::test_scores_are_those_of_the_definition",
    ),
    Fault(
        "similarity-first-divergent",
        "evaluators/similarity.py",
        "first.a == 0 and first.b == 0",
        "first.a == 0 or first.b == 0",
        "tests/evaluators/test_similarity.py::test_divergent_tokens_by_hand",
    ),
    Fault(
        "divergence-tail",
        "evaluators/_divergence.py",
        "excess[:, TOP:].mean(axis=1)",
        "excess[:, TOP:].sum(axis=1)",
        "tests/evaluators/test_divergence.py::test_a_partly_kept_divergence_has_no_bias",
    ),
    Fault(
        "divergence-margins-copy",
        "evaluators/_divergence.py",
        "rows = logits[piece].copy()",
        "rows = logits[piece]",
        "tests/evaluators/test_divergence.py::test_a_margin_is_between_the_two_best_tokens",
    ),
    Fault(
        "standard-error",
        "evaluators/_statistics.py",
        "values.std(ddof=1)",
        "values.std()",
        "tests/evaluators/test_statistics.py::test_standard_error_is_that_of_the_mean",
    ),
    Fault(
        "pareto-dominators",
        "autotune/results/pareto.py",
        "(cost < cost[row]).any(axis=1)",
        "(cost < cost[row]).all(axis=1)",
        "tests/results/test_pareto.py::test_nondominated_is_what_no_row_beats",
    ),
    Fault(
        "pareto-duplicates",
        "autotune/results/pareto.py",
        "first.setdefault(object() if key is None else key, row)",
        "first[object() if key is None else key] = row",
        "tests/results/test_pareto.py::test_exact_ties_stay_together_and_a_plan_counts_once",
    ),
    Fault(
        "knee-scale",
        "autotune/results/pareto.py",
        "unit_costs(values, directions, logarithmic=False)",
        "unit_costs(values, directions)",
        "tests/results/test_pareto.py::test_a_nearly_lossless_point_does_not_move_the_knee",
    ),
    Fault(
        "selection-size",
        "autotune/results/selection.py",
        "sizes[number] <= wish.max_size]",
        "sizes[number] < wish.max_size]",
        "tests/results/test_selection.py::test_a_size_that_is_just_kept_is_kept",
    ),
    Fault(
        "selection-drop",
        "autotune/results/selection.py",
        "cost - results.sign(metric) * original.value",
        "cost - original.value",
        "tests/results/test_selection.py::test_a_drop_of_a_named_metric_is_relative_to_the_original",
    ),
    Fault(
        "report-tables-saving",
        "autotune/results/decision.py",
        "100 * (ours - reference) / reference",
        "100 * (ours - reference) / ours",
        "tests/results/test_effects.py::test_savings_read_as_words",
    ),
    Fault(
        "report-trials-sort-key",
        "autotune/reporting/tables.py",
        'str(int(value)) if name == "footprint" else repr(value)',
        'str(int(value)) if name == "footprint" else f"{value:g}"',
        "tests/reporting/test_html.py::test_every_number_equals_trials_csv",
    ),
    Fault(
        "report-front-knee",
        "autotune/reporting/front_table.py",
        "if trial is not None and trial == recommend(results).trial:",
        "if trial is not None and trial == results.front[0]:",
        "tests/reporting/test_tables.py::test_front_md_begins_with_what_is_compared",
    ),
    Fault(
        "config-range-end",
        "autotune/config/space/parse.py",
        "elif not 0 <= value <= 1:",
        "elif not 0 <= value < 1:",
        "tests/config/test_space.py::test_three_forms_of_a_parameter",
    ),
    Fault(
        "config-constraint-sign",
        "autotune/common/units.py",
        'return value - self.value if self.op == "<=" else self.value - value',
        'return value - self.value if self.op == ">=" else self.value - value',
        "tests/common/test_units.py::test_a_violation_is_positive_beyond_the_limit",
    ),
    Fault(
        "config-space-idle",
        "autotune/config/space/space.py",
        "points[tuple(point.items())] = point",
        "points[tuple(point)] = point",
        "tests/config/test_space.py::test_quick_is_small_and_a_continuous_space_is_endless",
    ),
    Fault(
        "save-float16",
        "autotune/models/save.py",
        "ov.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)",
        "ov.save_model(model, folder / MODEL_FILE)",
        "tests/models/test_save.py::test_every_constant_keeps_its_type_and_bytes",
    ),
    Fault(
        "gptq-checkpoint-order",
        "autotune/models/quantized/layer.py",
        "values[:, np.argsort(self.order)]",
        "values[:, self.order]",
        "tests/models/test_quantized.py::test_a_layer_reads_as_it_was_meant",
    ),
    Fault(
        "texts-overlap",
        "autotune/evaluation/texts/overlap.py",
        "shared_share(used[b], used[a])",
        "shared_share(used[a], used[b])",
        "tests/evaluation/texts/test_overlap.py::test_every_pair_is_told_and_sets_without_texts_are_left_out",
    ),
]
