"""Studies as `autotune search` would leave them, made up: the trade-offs of a 22 M parameter Llama, no model needed.

Run as a script it writes a whole study folder to look at: ``python tests/support/fake_study.py OUT [--trials N]``.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START = datetime.datetime(2026, 9, 20, 9, 0, 0)
FP32_BYTES = 88_080_384
INNER, OUTER = 15_728_640, 6_291_456
"""Elements of the layers that `ratio` counts, and of embedding and last layer."""

METRICS: dict[str, dict[str, Any]] = {
    "footprint": {
        "direction": "minimize",
        "unit": "bytes",
        "description": "size of openvino_model.bin",
        "perfect": None,
    },
    "similarity": {"direction": "maximize", "unit": "", "description": "cosine of the answers", "perfect": 1.0},
    "fdt": {"direction": "maximize", "unit": "tokens", "description": "first divergent token", "perfect": None},
    "kl_divergence": {
        "direction": "minimize",
        "unit": "nats/token",
        "description": "Kullback-Leibler divergence from the original's next-token distribution",
        "perfect": 0.0,
    },
    "top1_agreement": {"direction": "maximize", "unit": "", "description": "share of equal top tokens", "perfect": 1.0},
    "perplexity": {"direction": "minimize", "unit": "", "description": "token perplexity", "perfect": None},
    "perplexity_increase": {"direction": "minimize", "unit": "%", "description": "over the original", "perfect": 0.0},
    "relative_error": {
        "direction": "minimize",
        "unit": "%",
        "description": "mean of the relative errors",
        "perfect": 0.0,
    },
}
ORIGINAL = {
    "footprint": 44_040_192,
    "bits_per_weight": 16.0,
    "fp32_bytes": FP32_BYTES,
    "metrics": {
        "similarity": {"value": 1.0, "stderr": 0.0},
        "kl_divergence": {"value": 0.0, "stderr": 0.0},
        "top1_agreement": {"value": 1.0, "stderr": 0.0},
        "perplexity": {"value": 40.271, "stderr": 0.41},
        "perplexity_increase": {"value": 0.0, "stderr": 0.0},
        "relative_error": {"value": 0.0, "stderr": None},
    },
}
CONFIG: dict[str, Any] = {
    "model": "models/wiki-llama-22m",
    "output": "reports/wiki-llama-22m",
    "calibration": {"path": "data/wikitext-2/valid.txt", "samples": 128, "sequence_length": 256},
    "space": "int4",
    "evaluators": {
        "similarity": {"prompts": "default", "max_new_tokens": 128, "embedder": "minilm"},
        "perplexity": {"path": "data/wikitext-2/test.txt", "sequence_length": 512},
    },
    "objectives": {"kl_divergence": "minimize", "footprint": "minimize"},
    "constraints": {"perplexity_increase": "<= 1.2%"},
    "study": {"trials": 36, "timeout": None, "sampler": "tpe", "seed": 0, "workers": 1},
    "runtime": {"device": "CPU", "ov_config": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}},
    "cache": {"directory": None, "limit": "20GB"},
    "trust_remote_code": False,
}
MANIFEST: dict[str, Any] = {
    "versions": {"autotune": "0.1.0", "openvino": "2026.3.0", "optuna": "5.0.0", "python": "3.11.14"},
    "cpu": {"model": "Intel Xeon", "cores": 2},
    "hashes": {"model": "9d2f5a1c", "calibration": "51be03aa", "perplexity": "c0ffee12"},
    "seeds": {"study": 0},
    "runtime_properties": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"},
}
CONSTRAINTS = {"perplexity_increase": {"op": "<=", "value": 1.2, "text": "<= 1.2%"}}
ANCHORS: list[dict[str, Any]] = [
    {"mode": "int8_asym"},
    {"mode": "int4_asym", "group_size": 128, "ratio": 1.0},
    {"mode": "int4_sym", "group_size": 128, "ratio": 1.0, "all_layers": True},
    {"mode": "int4_asym", "group_size": 64, "ratio": 0.8, "scale_estimation": True, "awq": True},
]


def settings_of(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """A full settings dict, as `Settings.as_dict()` would write it."""
    return {
        "mode": drawn["mode"],
        "group_size": drawn.get("group_size"),
        "ratio": drawn.get("ratio", 1.0),
        "backup_mode": drawn.get("backup_mode", "int8_asym"),
        "sensitivity_metric": drawn.get("sensitivity_metric"),
        "all_layers": drawn.get("all_layers", False),
        "awq": drawn.get("awq", False),
        "scale_estimation": drawn.get("scale_estimation", False),
        "ignored_scope": [],
        "group_size_fallback": "adjust",
    }


def draw(random_: random.Random) -> dict[str, Any]:
    """One point of a conditional space like the preset `int4`."""
    mode = random_.choice(["int4_asym", "int4_asym", "int4_sym", "nf4", "mxfp4"])
    drawn: dict[str, Any] = {"mode": mode, "ratio": random_.choice([1.0, 1.0, 0.8, 0.6])}
    if mode != "mxfp4":
        drawn["group_size"] = random_.choice([32, 64, 128])
        drawn["awq"] = random_.random() < 0.35
        drawn["scale_estimation"] = random_.random() < 0.5
    if drawn["ratio"] < 1:
        drawn["sensitivity_metric"] = random_.choice(["weight_quantization_error", "max_activation_variance"])
    drawn["all_layers"] = random_.random() < 0.25
    return drawn


def measure(settings: Mapping[str, Any], random_: random.Random) -> dict[str, Any]:
    """Sizes and scores that such settings give such a model: group sizes, ratio and algorithms cost what they cost."""
    mode, group, ratio = settings["mode"], settings["group_size"] or 128, settings["ratio"]
    if mode.startswith("int8"):
        low, kl = 0.0, 0.000056
    else:
        per_group = {"int4_asym": 2.5, "int4_sym": 2.0, "nf4": 2.0, "mxfp4": 1.0}[mode]
        group = 32 if mode == "mxfp4" else group
        low = (INNER + OUTER if settings["all_layers"] else INNER) * ratio
        base = {"int4_asym": 0.0052, "int4_sym": 0.0056, "nf4": 0.0048, "mxfp4": 0.0085}[mode]
        kl = base * (group / 128) ** 0.32 * (0.18 + 0.82 * ratio**1.8) * (2.3 if settings["all_layers"] else 1.0)
        kl *= 0.87 if settings["scale_estimation"] else 1.0
        kl *= random_.uniform(0.97, 1.02) if settings["awq"] else 1.0
        if settings["sensitivity_metric"] == "max_activation_variance":
            kl *= 0.86
    total = INNER + OUTER
    scales = 0 if low == 0 else low / group * per_group
    footprint = int(low * 0.5 + scales + (total - low) * 1.0005)
    kl *= math.exp(random_.gauss(0, 0.015))
    increase = kl * 130 + random_.gauss(0, 0.05)
    similarity = max(0.3, 1 - 3.1 * math.sqrt(kl)) + random_.gauss(0, 0.004)
    scores = {
        "similarity": (similarity, 0.012),
        "kl_divergence": (kl, kl * 0.02),
        "top1_agreement": (1 - 1.4 * math.sqrt(kl), 0.0012),
        "perplexity": (40.271 * (1 + increase / 100), 0.024),
        "perplexity_increase": (increase, 0.06),
        "relative_error": ((abs(increase) + 100 * abs(1 - similarity)) / 2, None),
        "fdt": (128 * math.exp(-8 * math.sqrt(kl)), 4.0),
    }
    return {
        "footprint": footprint,
        "bits_per_weight": footprint * 8 / total,
        "compression_rate": FP32_BYTES / footprint,
        "int4_percent": 100 * low / total,
        "int8_percent": 100 * (1 - low / total),
        "metrics": {name: {"value": value, "stderr": stderr} for name, (value, stderr) in scores.items()},
        "seconds_compress": random_.uniform(0.4, 2.2) + 5 * settings["scale_estimation"] + 3 * settings["awq"],
        "seconds_evaluate": random_.uniform(6.0, 9.0),
        "variants_computed": random_.randrange(0, 43),
        "variants_reused": random_.randrange(0, 43),
    }


ERRORS = [
    ("MemoryError", "std::bad_alloc", "Traceback (most recent call last): ..."),
    ("EvaluationError", "logits of window 12 are NaN", "Traceback (most recent call last): ..."),
]


def build(
    storage: Any = None,
    *,
    trials: int = 36,
    seed: int = 0,
    objectives: Mapping[str, str] | None = None,
    constraints: Mapping[str, Mapping[str, Any]] | None = None,
    failing: Sequence[int] = (9, 21),
    only_failing: bool = False,
    without_metrics: Sequence[str] = (),
    extra_metrics: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> Any:
    """Write a study into an Optuna storage and return it.

    Args:
        storage: a URL, e.g. ``sqlite:///study.db``; None keeps the study in memory.
        trials: how many, the anchors of `ANCHORS` first.
        objectives: name -> direction; default KL divergence and footprint.
        constraints: as the contract has them; default a perplexity increase of at most 1.2 percent.
        failing: trial numbers that fail.
        only_failing: every trial fails.
        without_metrics: metrics that no trial has (an evaluator left out).
        extra_metrics: metrics of a third party's evaluator, each about 1.
        config: replaces keys of `CONFIG`.
    """
    import optuna

    objectives = dict(objectives or {"kl_divergence": "minimize", "footprint": "minimize"})
    constraints = dict(CONSTRAINTS if constraints is None else constraints)
    metrics = {name: meaning for name, meaning in METRICS.items() if name not in without_metrics}
    for name in extra_metrics:
        metrics[name] = {"direction": "maximize", "unit": "", "description": "of a third party", "perfect": 1.0}
    study = optuna.create_study(
        study_name="autotune", storage=storage, directions=[str(way) for way in objectives.values()]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    original = {**ORIGINAL, "metrics": {k: v for k, v in ORIGINAL["metrics"].items() if k in metrics}}  # type: ignore[attr-defined]
    attributes = {
        "schema_version": 1,
        "config": {**CONFIG, "objectives": dict(objectives), **(config or {})},
        "space": {"mode": ["int4_asym", "int4_sym", "nf4", "mxfp4"], "group_size": [32, 64, 128]},
        "space_fingerprint": "5f3c",
        "objectives": objectives,
        "constraints": constraints,
        "metrics": metrics,
        "original": original,
        "manifest": MANIFEST,
    }
    for name, value in attributes.items():
        study.set_user_attr(name, value)

    random_ = random.Random(seed)
    first_of: dict[str, tuple[int, dict[str, Any]]] = {}
    clock = START
    for number in range(trials):
        anchor = ANCHORS[number] if number < len(ANCHORS) else None
        drawn = anchor or draw(random_)
        settings = settings_of(drawn)
        key = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:32]
        trial = _trial(
            number, drawn, settings, key, first_of, random_, objectives, constraints, metrics, failing, only_failing
        )
        measured = trial.user_attrs
        seconds = measured.get("seconds_compress", 1.5) + measured.get("seconds_evaluate", 0.0) + 0.4
        trial.datetime_start, trial.datetime_complete = clock, clock + datetime.timedelta(seconds=seconds)
        clock = trial.datetime_complete + datetime.timedelta(seconds=3600 if number == 20 else 0.2)
        study.add_trial(trial)
    return study


def _trial(
    number: int,
    drawn: Mapping[str, Any],
    settings: Mapping[str, Any],
    key: str,
    first_of: dict[str, tuple[int, dict[str, Any]]],
    random_: random.Random,
    objectives: Mapping[str, str],
    constraints: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    failing: Sequence[int],
    only_failing: bool,
) -> Any:
    import optuna

    choices: dict[str, list[Any]] = {
        "mode": ["int8_asym", "int4_asym", "int4_sym", "nf4", "mxfp4"],
        "group_size": [32, 64, 128],
        "ratio": [1.0, 0.8, 0.6],
        "sensitivity_metric": ["weight_quantization_error", "max_activation_variance"],
        "all_layers": [False, True],
        "awq": [False, True],
        "scale_estimation": [False, True],
    }
    common: dict[str, Any] = {
        "params": dict(drawn),
        "distributions": {name: optuna.distributions.CategoricalDistribution(choices[name]) for name in drawn},
    }
    origin = "enqueued: anchor" if number < len(ANCHORS) else "sampled"
    attributes: dict[str, Any] = {
        "settings": dict(settings),
        "origin": origin,
        "plan": key,
        "plan_file": f"plans/{key}.json",
    }
    if only_failing or number in failing:
        kind, message, trace = ERRORS[number % len(ERRORS)]
        attributes["error"] = {"type": kind, "message": message, "traceback": trace}
        return optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs=attributes, **common)
    if key in first_of:
        source, measured = first_of[key]
        attributes["duplicate_of"] = source
    else:
        measured = measure(settings, random_)
        measured["metrics"] = {name: value for name, value in measured["metrics"].items() if name in metrics}
        for name in set(metrics) - set(METRICS):
            measured["metrics"][name] = {"value": random_.uniform(0.9, 1.0), "stderr": 0.01}
        attributes.update(measured)
        first_of[key] = (number, measured)
    sizes = ("footprint", "bits_per_weight", "compression_rate", "int4_percent", "int8_percent")
    numbers = {
        **{name: measured[name] for name in sizes},
        **{name: m["value"] for name, m in measured["metrics"].items()},
    }
    violations = {
        name: (numbers[name] - limit["value"]) * (1 if limit["op"] == "<=" else -1)
        for name, limit in constraints.items()
    }
    early = {name: over for name, over in violations.items() if name in sizes}
    if any(over > 0 for over in early.values()):
        # A limit that the plan alone breaks ends a trial before it is compressed or scored.
        kept = {k: v for k, v in attributes.items() if k != "metrics" and not k.startswith(("seconds", "variants"))}
        pruned = optuna.trial.TrialState.PRUNED
        return optuna.trial.create_trial(state=pruned, user_attrs=kept, constraints=early, **common)
    return optuna.trial.create_trial(
        values=[float(numbers[name]) for name in objectives], user_attrs=attributes, constraints=violations, **common
    )


def main() -> None:
    """Write a fake study's folder and its report."""
    import argparse

    import optuna

    from autotune.reporting.folder import rebuild_report

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "study.db").unlink(missing_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    build(f"sqlite:///{arguments.out / 'study.db'}", trials=arguments.trials, seed=arguments.seed)
    print(rebuild_report(arguments.out))


if __name__ == "__main__":
    main()
