"""Faults that the tests must find: small edits of the sources, each with the test that fails because of it.

They are of the kinds that reviews miss: an off-by-one, a wrong sign, a wrong axis, a key without one of its parts, `<`
for `<=`, a missing copy, swapped arguments. `run.py` applies them one by one.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FAULTS", "Fault"]


class Fault(NamedTuple):
    """One seeded fault.

    Attributes:
        name: room and subject.
        file: path from the root of the repository.
        old: text that occurs once in the file.
        new: text that replaces it.
        test: node id of a test that passes without the fault and fails with it.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


ENGINE, TESTS = "autotune/compression", "tests/compression"
STUDY, OF_STUDY = "autotune/study", "tests/study"

COMPRESSION = [
    Fault(
        "format-int-asym-levels",
        f"{ENGINE}/formats/quantize.py",
        "(high - low) / np.float32(fmt.highest)",
        "(high - low) / np.float32(fmt.highest + 1)",
        f"{TESTS}/formats/test_quantize.py::test_asymmetric_groups_of_one_sign_keep_their_differences",
    ),
    Fault(
        "format-int-asym-zero",
        f"{ENGINE}/formats/quantize.py",
        "low = np.minimum(_reduce(np.minimum, rows), 0)",
        "low = _reduce(np.minimum, rows)",
        f"{TESTS}/formats/test_quantize.py::test_asymmetric_groups_of_one_sign_keep_their_differences",
    ),
    Fault(
        "format-int-sym-tie",
        f"{ENGINE}/formats/quantize.py",
        "np.where(low >= high, low, -high)",
        "np.where(low > high, low, -high)",
        f"{TESTS}/formats/test_quantize.py::test_larger_side_of_a_symmetric_range_lands_on_the_lowest_level",
    ),
    Fault(
        "format-int2-offset",
        f"{ENGINE}/formats/quantize.py",
        "codes.astype(np.float32) + np.float32(fmt.lowest)",
        "codes.astype(np.float32) - np.float32(fmt.highest)",
        f"{TESTS}/formats/test_quantize.py::test_round_trip_is_decode_after_encode",
    ),
    Fault(
        "format-fp4-ties",
        f"{ENGINE}/formats/encoding.py",
        "magnitude >= threshold if code % 2 else magnitude > threshold",
        "magnitude > threshold if code % 2 else magnitude >= threshold",
        f"{TESTS}/formats/test_quantize.py::test_e2m1_ties_go_to_the_even_code",
    ),
    Fault(
        "format-nf4-midpoints",
        f"{ENGINE}/formats/quantize.py",
        "codes += normalised > midpoint",
        "codes += normalised >= midpoint",
        f"{TESTS}/formats/test_quantize.py::test_midpoints_go_to_the_lower_level",
    ),
    Fault(
        "format-codebook-midpoints",
        f"{ENGINE}/formats/quantize.py",
        'np.searchsorted(midpoints, normalised, "left")',
        'np.searchsorted(midpoints, normalised, "right")',
        f"{TESTS}/formats/test_quantize.py::test_midpoints_go_to_the_lower_level",
    ),
    Fault(
        "format-fp8-ties",
        f"{ENGINE}/formats/encoding.py",
        "np.where(lower % 2 == 0, lower, upper)",
        "np.where(lower % 2 == 1, lower, upper)",
        f"{TESTS}/formats/test_quantize.py",
    ),
    Fault(
        "format-mx-scale",
        f"{ENGINE}/formats/encoding.py",
        "np.where(mantissa == 0.5, exponent - 1, exponent)",
        "np.where(mantissa <= 0.5, exponent, exponent)",
        f"{TESTS}/formats/test_quantize.py::test_mxfp4_exact_powers_of_two_are_not_rounded_up",
    ),
    Fault(
        "format-nvfp4-smallest-scale",
        f"{ENGINE}/formats/quantize.py",
        "max(E4M3_SMALLEST, FLOAT16_SMALLEST / unit)",
        "FLOAT16_SMALLEST / unit",
        f"{TESTS}/test_variants.py::test_tiny_weights_do_not_vanish_in_nvfp4",
    ),
    Fault(
        "pack-2-order",
        f"{ENGINE}/formats/encoding.py",
        "lower | (upper << np.uint8(4))",
        "upper | (lower << np.uint8(4))",
        f"{TESTS}/formats/test_quantize.py::test_bytes_are_those_that_openvino_packs",
    ),
    Fault(
        "pack-3-size",
        f"{ENGINE}/formats/encoding.py",
        "3 * -(-elements // 8) if bits == 3",
        "-(-3 * elements // 8) if bits == 3",
        f"{TESTS}/formats/test_quantize.py::test_unpack_is_the_inverse_of_pack_for_any_number_of_elements",
    ),
    Fault(
        "pack-4-order",
        f"{ENGINE}/formats/encoding.py",
        "(pairs | (pairs >> np.uint16(4)))",
        "((pairs << np.uint16(4)) | (pairs >> np.uint16(8)))",
        f"{TESTS}/formats/test_quantize.py::test_bytes_are_those_that_openvino_packs",
    ),
    Fault(
        "scale-estimation-zero-point",
        f"{ENGINE}/algorithms/scale_estimation.py",
        "zero_point(self._low * share, scale, self._fmt)",
        "zero_point(self._low, scale, self._fmt)",
        f"{TESTS}/algorithms/test_scale_estimation.py::test_white_activations_reduce_it_to_the_least_square_error",
    ),
    Fault(
        "scale-estimation-axis",
        f"{ENGINE}/algorithms/scale_estimation.py",
        "parts[:, :, None] * parts[:, None, :]",
        "parts[:, :, None] * parts[:, :, None]",
        f"{TESTS}/algorithms/test_scale_estimation.py::test_blocks_of_divided_channels_are_those_of_their_moments",
    ),
    Fault(
        "gptq-permutation",
        f"{ENGINE}/algorithms/gptq.py",
        "in_channel_order[:, order] = codes.T",
        "in_channel_order[:] = codes.T[:, order]",
        f"{TESTS}/algorithms/test_gptq.py::test_codes_are_those_of_the_algorithm",
    ),
    Fault(
        "gptq-strip-boundary",
        f"{ENGINE}/algorithms/gptq.py",
        "targets[stop:end] += factor[start:stop, stop:end].T @ errors",
        "targets[stop : end - 1] += factor[start:stop, stop : end - 1].T @ errors",
        f"{TESTS}/algorithms/test_gptq.py::test_codes_are_those_of_the_algorithm",
    ),
    Fault(
        "gptq-order",
        f"{ENGINE}/algorithms/gptq.py",
        'np.argsort(-diagonal, kind="stable")',
        'np.argsort(diagonal, kind="stable")',
        f"{TESTS}/algorithms/test_gptq.py::test_columns_go_in_the_order_of_falling_energy",
    ),
    Fault(
        "lora-directions",
        f"{ENGINE}/algorithms/lora.py",
        "vectors[:, ::-1][:, :rank]",
        "vectors[:, :rank]",
        f"{TESTS}/algorithms/test_lora.py",
    ),
    Fault(
        "awq-balance-sign",
        f"{ENGINE}/algorithms/awq/search.py",
        "logs += np.log(np.maximum(errors, 1e-30) / np.maximum(steps, 1e-30))",
        "logs -= np.log(np.maximum(errors, 1e-30) / np.maximum(steps, 1e-30))",
        f"{TESTS}/algorithms/test_awq.py::test_channels_with_large_activations_get_larger_scales",
    ),
    Fault(
        "awq-merge-producers",
        f"{ENGINE}/algorithms/awq/selection.py",
        "variants.keys() >= {*group.weights, *merge.producers}",
        "variants.keys() >= {*group.weights}",
        f"{TESTS}/algorithms/test_awq.py::test_what_is_not_compressed_cannot_take_a_scale",
    ),
    Fault(
        "awq-split",
        f"{ENGINE}/algorithms/awq/propagation.py",
        "parts[index] = np.broadcast_to(labels, parts[index].shape)",
        "parts[0] = np.broadcast_to(labels, parts[0].shape)",
        f"{TESTS}/algorithms/test_awq_groups.py",
    ),
    Fault(
        "awq-key-variant",
        f"{ENGINE}/algorithms/awq/selection.py",
        "[(*self._source.content_key(weight), plain[weight.name].as_dict()) for weight in weights]",
        "[(*self._source.content_key(weight), plain[weight.name].mode) for weight in weights]",
        f"{TESTS}/algorithms/test_awq.py::test_scales_of_another_variant_are_searched_anew",
    ),
    Fault(
        "sensitivity-axis",
        f"{ENGINE}/algorithms/sensitivity.py",
        "float(error.mean(axis=-1).max())",
        "float(error.mean(axis=0).max())",
        f"{TESTS}/algorithms/test_sensitivity.py::test_int8_error_is_that_of_the_per_channel_round_trip",
    ),
    Fault(
        "sensitivity-key-grid",
        f"{ENGINE}/algorithms/sensitivity.py",
        "(*source.content_key(weight), variant.grid, of_input)",
        "(*source.content_key(weight), variant.mode, of_input)",
        f"{TESTS}/algorithms/test_sensitivity.py::test_errors_of_other_groups_are_measured_anew",
    ),
    Fault(
        "plan-ratio",
        f"{ENGINE}/plan.py",
        "(taken + weight.size) / total >= settings.ratio",
        "(taken + weight.size) / total > settings.ratio",
        f"{TESTS}/test_plan.py::test_ratio_stays_below_its_share",
    ),
    Fault(
        "plan-key-awq",
        f"{ENGINE}/plan.py",
        "fingerprint(variants, dict(self.awq), self.awq_data_free)",
        "fingerprint(variants, dict(self.awq))",
        f"{TESTS}/test_plan.py::test_keys_differ_exactly_where_models_differ",
    ),
    Fault(
        "knapsack-limit",
        f"{ENGINE}/knapsack.py",
        "capacity = math.ceil(limit / unit) - 1",
        "capacity = math.floor(limit / unit)",
        f"{TESTS}/test_knapsack.py::test_it_equals_trying_every_subset",
    ),
    Fault(
        "sizes-own-activations",
        f"{ENGINE}/ir/sizes.py",
        "own = variant.looks_at_activations or variant.awq or variant.awq_output",
        "own = variant.awq or variant.awq_output",
        f"{TESTS}/ir/test_sizes.py::test_equal_weights_differ_where_their_activations_do",
    ),
    Fault(
        "layout-rows",
        f"{ENGINE}/ir/layout.py",
        "np.moveaxis(shaped, (axis, axis + 1), (-2, -1))",
        "np.moveaxis(shaped, (axis + 1, axis), (-2, -1))",
        f"{TESTS}/ir/test_assemble.py",
    ),
    Fault(
        "statistics-key-shape",
        f"{ENGINE}/calibration/statistics.py",
        "text = [list(tokens.shape), tokens.tobytes()]",
        "text = [tokens.tobytes()]",
        f"{TESTS}/calibration/test_statistics.py::test_cache_asks_again_for_another_model_other_tokens_or_activations",
    ),
    Fault(
        "statistics-mean",
        f"{ENGINE}/calibration/calibrate.py",
        "np.square(channels[:, NORM]) / rows",
        "channels[:, NORM] / rows",
        f"{TESTS}/calibration/test_statistics.py::test_scalars_of_a_worked_example",
    ),
    Fault(
        "segments-live",
        f"{ENGINE}/calibration/segments.py",
        "if last_use.get(name, -1) > index:",
        "if last_use.get(name, -1) > index + 1:",
        f"{TESTS}/calibration/test_segments.py",
    ),
    Fault(
        "bank-key-statistics",
        f"{ENGINE}/engine.py",
        'parts.append([self.statistics.fingerprint, weight.activations[0]] if weight.activations else ["rows"])',
        'parts.append([weight.activations[0]] if weight.activations else ["rows"])',
        f"{TESTS}/test_engine.py::test_other_statistics_give_other_searched_variants_only",
    ),
    Fault(
        "bank-recency",
        f"{ENGINE}/bank.py",
        "            os.utime(path)\n",
        "",
        f"{TESTS}/test_bank.py::test_entries_unused_for_the_longest_time_go_first",
    ),
    Fault(
        "source-model-copy",
        f"{ENGINE}/ir/assemble.py",
        "model.clone()",
        "model",
        f"{TESTS}/ir/test_assemble.py::test_source_model_is_not_changed",
    ),
]

SEARCH = [
    Fault(
        "history-retry-chain",
        f"{STUDY}/storage/history.py",
        "while number in self._again:",
        "if number in self._again:",
        f"{OF_STUDY}/storage/test_history.py::test_what_is_done_again_stands_in_its_old_place",
    ),
    Fault(
        "history-missing-copy",
        f"{STUDY}/storage/history.py",
        "before = copy.copy(trial)",
        "before = trial",
        f"{OF_STUDY}/storage/test_history.py::test_the_last_ones_are_as_if_at_work",
    ),
    Fault(
        "history-lag",
        f"{STUDY}/storage/history.py",
        "max(0, self.turn - lag + 1)",
        "max(0, self.turn - lag)",
        f"{OF_STUDY}/storage/test_history.py",
    ),
    Fault(
        "history-duplicates",
        f"{STUDY}/storage/history.py",
        't.state.is_finished() and "duplicate_of" not in t.user_attrs]',
        "t.state.is_finished()]",
        f"{OF_STUDY}/test_run.py::test_no_plan_is_evaluated_twice",
    ),
    Fault(
        "history-twins",
        f"{STUDY}/storage/history.py",
        'for trial in self.running if trial.user_attrs.get("plan") == plan',
        'for trial in self.waiting if trial.user_attrs.get("plan") == plan',
        f"{OF_STUDY}/storage/test_history.py::test_a_plan_is_looked_up_among_running_and_finished_trials",
    ),
    Fault(
        "history-interrupted",
        f"{STUDY}/storage/history.py",
        "(trial for trial in interrupted if trial.number not in repeated)",
        "(trial for trial in interrupted)",
        f"{OF_STUDY}/storage/test_history.py::test_what_is_done_again_stands_in_its_old_place",
    ),
    Fault(
        "storage-process-id",
        f"{STUDY}/storage/coordination.py",
        'found.create_time() == process["started"] and ',
        "",
        f"{OF_STUDY}/storage/test_coordination.py::test_a_process_of_this_machine_is_known_to_be_gone",
    ),
    Fault(
        "storage-constraints",
        f"{STUDY}/storage/attributes.py",
        "[limit.op, limit.value]",
        "[limit.op]",
        f"{OF_STUDY}/test_run.py::test_a_changed_study_is_refused_with_what_changed",
    ),
    Fault(
        "storage-braces",
        f"{STUDY}/storage/database.py",
        '.replace("{", "{{").replace("}", "}}")',
        "",
        f"{OF_STUDY}/storage",
    ),
    Fault(
        "racing-pairs",
        f"{STUDY}/trials/racing.py",
        "theirs[: len(own)]",
        "theirs[-len(own) :]",
        f"{OF_STUDY}/trials/test_racing.py",
    ),
    Fault(
        "racing-direction",
        f"{STUDY}/trials/racing.py",
        'sign = 1.0 if self.objectives[name] == "minimize" else -1.0',
        "sign = 1.0",
        f"{OF_STUDY}/trials/test_racing.py::test_a_score_to_maximise_is_raced_the_other_way",
    ),
    Fault(
        "racing-equal-size",
        f"{STUDY}/trials/racing.py",
        "self.of_plan[name], rival.values[name]) >= 0",
        "self.of_plan[name], rival.values[name]) > 0",
        f"{OF_STUDY}/trials/test_racing.py::test_a_clearly_worse_model_is_stopped_on_the_first_texts",
    ),
    Fault(
        "proposals-attempt",
        f"{STUDY}/sampling/proposals.py",
        "history.position, attempt)",
        "history.position)",
        f"{OF_STUDY}/test_run.py::test_a_sampler_that_repeats_itself_is_helped_on",
    ),
    Fault(
        "sampler-estimate",
        f"{STUDY}/sampling/sampler.py",
        "state = TrialState.COMPLETE if estimate else trial.state",
        "state = trial.state",
        f"{OF_STUDY}/sampling/test_sampler.py::test_samplers_learn_from_a_stopped_trial_by_its_estimate",
    ),
    Fault(
        "sampler-snap",
        f"{STUDY}/sampling/sampler.py",
        "key=lambda step: abs(step - value)",
        "key=lambda step: step - value",
        f"{OF_STUDY}/sampling/test_sampler.py::test_a_stepped_range_gives_the_numbers_that_are_written",
    ),
    Fault(
        "initial-points-end",
        f"{STUDY}/sampling/initial_points.py",
        "min(points, key=lambda point: sign * estimated_bits(space, point))",
        "min(points, key=lambda point: estimated_bits(space, point))",
        f"{OF_STUDY}/sampling/test_initial_points.py::test_the_known_settings_come_first_and_by_name",
    ),
    Fault(
        "trial-limit-met",
        f"{STUDY}/trials/trial.py",
        "if any(violation > 0 for violation in violations.values()):",
        "if any(violation >= 0 for violation in violations.values()):",
        f"{OF_STUDY}/trials/test_trial.py::test_a_limit_that_is_just_kept_is_kept",
    ),
    Fault(
        "trial-relative-error",
        f"{STUDY}/trials/trial.py",
        "100 * abs(measured.value - original[name]) / reference",
        "100 * (measured.value - original[name]) / reference",
        f"{OF_STUDY}/trials/test_trial.py::test_relative_error_is_the_mean_of_its_terms",
    ),
    Fault(
        "trial-duplicate-cost",
        f"{STUDY}/trials/trial.py",
        'if not key.startswith(("seconds_", "variants_"))',
        'if not key.startswith("seconds_")',
        f"{OF_STUDY}/trials/test_trial.py::test_a_repeated_plan_has_the_values_and_not_the_cost",
    ),
    Fault(
        "scores-after-preview",
        f"{STUDY}/trials/scoring.py",
        "preview = preview or bool(stored.stages)",
        "preview = bool(stored.stages)",
        f"{OF_STUDY}/trials/test_previews.py",
    ),
    Fault(
        "scores-complete",
        f"{STUDY}/trials/scoring.py",
        "self.store.put(key, replace(record, complete=True))",
        "self.store.put(key, record)",
        f"{OF_STUDY}/trials/test_scoring.py::test_a_plan_that_is_known_is_not_even_made",
    ),
    Fault(
        "scores-checksum",
        "autotune/evaluation/stores.py",
        'if fingerprint(scores) != data["checksum"]:',
        'if "checksum" not in data:',
        "tests/evaluation/test_scores.py::test_a_damaged_file_is_not_read",
    ),
    Fault(
        "scores-key-runtime",
        "autotune/evaluation/stores.py",
        "tokenizer_fingerprint, dict(ov_config), versions",
        "tokenizer_fingerprint, versions",
        "tests/evaluation/test_references.py::test_the_key_changes_with_all_that_matters",
    ),
    Fault(
        "patience",
        f"{STUDY}/loop.py",
        "finished[:-last]",
        "finished[: 1 - last]",
        f"{OF_STUDY}/test_stopping.py::test_a_front_that_stands_still_ends_the_search",
    ),
    Fault(
        "workers-replaced",
        f"{STUDY}/workers/process_pool.py",
        "        self._retired.append(place.counts)\n",
        "",
        f"{OF_STUDY}/workers/test_workers.py::test_workers_are_replaced_after_some_trials",
    ),
    Fault(
        "allocation-rate",
        "autotune/allocation/error_table.py",
        "return measured[nearest] / errors[nearest]",
        "return measured[nearest] / max(errors)",
        "tests/allocation/test_table.py::test_other_variants_follow_from_the_measured_one_nearest_in_error",
    ),
    Fault(
        "allocation-pairs",
        "autotune/allocation/error_table.py",
        "sum(math.sqrt(cost) for cost in costs) ** 2 - sum(costs)",
        "sum(math.sqrt(cost) for cost in costs) ** 2",
        "tests/allocation/test_table.py",
    ),
    Fault(
        "allocation-solver-rest",
        "autotune/allocation/error_table.py",
        "decided = sum(choices[0].nbytes",
        "decided = sum(choices[-1].nbytes",
        "tests/allocation/test_allocator.py::test_a_solution_keeps_the_limit_and_uses_it",
    ),
    Fault(
        "allocation-probe-restore",
        "autotune/allocation/probe.py",
        "self._inputs.update({input_name(name): self._originals[name] for name in values})",
        "pass",
        "tests/allocation/test_probe.py",
    ),
    Fault(
        "allocation-suffix-first-use",
        "autotune/allocation/suffix.py",
        "dict.fromkeys(_input_names(part), number) | self._first_use",
        "self._first_use | dict.fromkeys(_input_names(part), number)",
        "tests/allocation/test_probe.py::test_behind_a_cut_it_is_the_whole_model",
    ),
]

OUTSIDE = [
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
        "tests/evaluators/test_similarity.py",
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
        "tests/evaluators/test_statistics.py",
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
        "bytes_ <= wish.max_size",
        "bytes_ < wish.max_size",
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
        "100 * (ours - theirs) / theirs",
        "100 * (ours - theirs) / ours",
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
        "if trial is not None and trial == results.knee:",
        "if trial is not None and trial == results.front[0]:",
        "tests/reporting/test_tables.py::test_front_md_has_the_form_of_nncfs_table",
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
        "ov.save_model(model, out / MODEL_FILE, compress_to_fp16=False)",
        "ov.save_model(model, out / MODEL_FILE)",
        "tests/models/test_source.py",
    ),
    Fault(
        "gptq-checkpoint-order",
        "autotune/models/gptq_checkpoint.py",
        "values[:, np.argsort(self.order)]",
        "values[:, self.order]",
        "tests/models/test_gptq_checkpoint.py::test_a_layer_reads_as_it_was_meant",
    ),
    Fault(
        "texts-overlap",
        "autotune/evaluation/texts/overlap.py",
        "shared_share(used[b], used[a])",
        "shared_share(used[a], used[b])",
        "tests/evaluation/texts/test_overlap.py",
    ),
]

FAULTS = (*COMPRESSION, *SEARCH, *OUTSIDE)
