"""The default sensitivity metric against the others: KL divergence of int4_asym at ratios 0.8 and 0.6.

    python benchmarks/default_metric.py                                        # the demo model
    python benchmarks/default_metric.py --model DIR --calibration FILE --text FILE

One line for each ratio and metric: the share of 4-bit weights, bytes, KL divergence, and the difference of the default
from it in standard errors of the paired differences, window by window (below 0: the default is better). The metric
that is best of those that NNCF has runs in NNCF, too.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

import common  # noqa: F401
from peer import nncf_compress
from quality import Bench, Scored, add_options, standard_error

from autotune.compression.settings import DATA_FREE_METRIC, DATA_METRICS, OUTPUT_ERROR, Settings


def row(ratio: float, name: str, share: str, scored: Scored, default: Scored) -> str:
    """Format a line of the table."""
    mean, error = scored.divergence.mean(), standard_error(scored.divergence)
    differences = default.divergence - scored.divergence
    apart = differences.mean() / (standard_error(differences) or 1)
    kl = f"{1000 * mean:.3f} ± {1000 * error:.3f}"
    return f"| {ratio} | {name} | {share} | {scored.footprint:,} | {kl} | {apart:+.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.8, 0.6])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        alike = bench.without_gradients()
        scores: dict[str, Scored] = {}
        print("| ratio | metric | % int4 | bytes | KL, 1e-3 nats/token | default - this, standard errors |")
        print("|---|---|---:|---:|---:|---:|", flush=True)
        for ratio in options.ratios:
            base = Settings(mode="int4_asym", group_size=options.group_size, ratio=ratio)
            default = None
            of_nncf = []
            for name in ("default", "outputs alike", DATA_FREE_METRIC, *DATA_METRICS):
                metric = {"default": None, "outputs alike": OUTPUT_ERROR}.get(name, name)
                settings = replace(base, sensitivity_metric=metric)
                engine = alike if name == "outputs alike" else bench.engine
                plan = engine.plan(settings)
                if plan.key not in scores:
                    scores[plan.key] = bench.score(engine.apply(plan))
                scored = scores[plan.key]
                default = default or scored
                print(row(ratio, name, f"{plan.int4_percent:.1f}", scored, default), flush=True)
                if metric not in (None, OUTPUT_ERROR):
                    of_nncf.append((scored.divergence.mean(), settings))
            _, settings = min(of_nncf, key=lambda each: each[0])
            peer = nncf_compress(bench.model, settings, bench.windows)
            if peer is not None and default is not None:
                print(row(ratio, f"NNCF, {settings.sensitivity_metric}", "", bench.score(peer), default), flush=True)


if __name__ == "__main__":
    main()
