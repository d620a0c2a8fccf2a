from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import (
    as_constant,
    cast_weights,
    chain,
    content,
    decompressed,
    distance,
    language_chain,
    logits,
    normal,
    result_model,
)
from openvino import opset15 as ops
from openvino import opset17

from autotune.common.threads import limited_to
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import Statistics, StatisticsCache
from autotune.compression.engine import Engine
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.sizes import Sizes
from autotune.compression.ir.weights import find_weights
from autotune.compression.settings import Settings
from autotune.errors import PlanError

Tokens = npt.NDArray[np.int64]
GetStatistics = Callable[[], Statistics]

EVERY_KIND = [
    Settings(),
    Settings(mode="int8_sym"),
    Settings(mode="int4_asym", group_size=32),
    Settings(mode="int4_sym", group_size=128, all_layers=True),
    Settings(mode="int4_asym", group_size=64, ratio=0.6, backup_mode="none"),
    Settings(mode="nf4", group_size=-1, backup_mode="int8_sym"),
    Settings(mode="mxfp4"),
    Settings(mode="int4_sym", group_size=32, awq=True),
    Settings(mode="int4_asym", group_size=32, scale_estimation=True),
    Settings(mode="nf4", group_size=32, awq=True, scale_estimation=True, all_layers=True),
    Settings(mode="int4_asym", group_size=32, gptq=True),
    Settings(mode="nf4", group_size=32, awq=True, scale_estimation=True, gptq=True, all_layers=True),
    Settings(mode="mxfp4", awq=True, scale_estimation=True, gptq=True),
    Settings(mode="nvfp4", scale_estimation=True, all_layers=True),
    Settings(mode="nvfp4", awq=True, gptq=True),
    Settings(mode="fp4", group_size=32, backup_mode="fp8_e4m3", scale_estimation=True),
    Settings(mode="fp8_e4m3", group_size=64),
    Settings(mode="mxfp8_e4m3", ratio=0.5, backup_mode="int8_sym"),
    Settings(mode="cb4", group_size=32, scale_estimation=True, gptq=True),
    Settings(mode="codebook", codebook=tuple((np.arange(-10, 11) / 10).tolist()), awq=True, all_layers=True),
    Settings(mode="int3_sym", group_size=32, awq=True),
    Settings(mode="int2_sym", group_size=32, scale_estimation=True, gptq=True, backup_mode="mxfp8_e4m3"),
]


def label(settings: Any) -> str:
    defaults = Settings().as_dict()
    changed = {key: value for key, value in settings.as_dict().items() if value != defaults[key]}
    return "-".join(str(value) if key in ("mode", "group_size") else key for key, value in changed.items()) or "default"


def named_content(model: ov.Model) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Constants that have a name of their own."""
    return {name: value for name, value in content(model).items() if not name.startswith("Constant_")}


@pytest.fixture(scope="module")
def engine(llama: ov.Model, statistics: GetStatistics) -> Engine:
    """One engine for many settings."""
    return Engine(llama, statistics=statistics)


@pytest.fixture(scope="module")
def stored(llama: ov.Model, statistics: GetStatistics) -> list[Engine]:
    """Engines of one model in a float32 and in a float16 file, rounded so that both (and bfloat16) hold it exactly."""
    names = [weight.name for weight in find_weights(llama)]
    exact = cast_weights(cast_weights(llama, names, "bf16"), names, "f16")
    return [Engine(cast_weights(exact, names, storage), statistics=statistics) for storage in ("f32", "f16")]


@pytest.mark.parametrize("settings", EVERY_KIND, ids=label)
def test_compressed_model_computes_with_what_is_stored(
    llama: ov.Model, engine: Engine, tokens: Tokens, settings: Settings
) -> None:
    """OpenVINO's logits are those of the original with every weight decoded to float32."""
    compressed = engine.apply(engine.plan(settings))
    assert distance(logits(decompressed(llama, compressed), tokens), logits(compressed, tokens)) < 0.01


@pytest.mark.parametrize("settings", EVERY_KIND, ids=label)
def test_half_precision_storage_gives_the_same_codes(stored: list[Engine], settings: Settings) -> None:
    """Weights that float32, float16 and bfloat16 files hold exactly are compressed to the same bytes from each."""
    found = []
    for engine in stored:
        plan = engine.plan(settings)
        compressed = content(engine.apply(plan))
        endings = ("", "/scale", "/zero_point", "/second_order_scale", "_nncf_codebook_idxs")
        parts = [f"{name}{ending}" for name in plan.variants for ending in endings]
        found.append({part: compressed[part] for part in parts if part in compressed})
    assert len(found[0]) >= 8
    assert found[0] == found[1]


def weights_in_execution_graph(model: ov.Model) -> Counter[tuple[str, str]]:
    """(layer, element type of its constant weight) of the CPU plugin's execution graph."""
    found: Counter[tuple[str, str]] = Counter()
    for node in ov.Core().compile_model(model, "CPU").get_runtime_model().get_ordered_ops():
        layer = node.get_rt_info()["layerType"].astype(str)
        if layer not in ("FullyConnected", "Gather", "GatherMatmul"):
            continue
        sources = [port.get_source_output() for port in node.inputs()]
        for source in sources:
            if source.get_node().get_rt_info()["layerType"].astype(str) == "Const":
                found[layer, source.get_element_type().get_type_name()] += 1
                break
    del found["Gather", "i32"], found["Gather", "i64"]
    return found


@pytest.mark.parametrize(
    ("settings", "body", "ends"),
    [
        (Settings(), "u8", "u8"),
        (Settings(mode="int8_sym"), "i8", "i8"),
        (Settings(mode="int4_asym", group_size=32), "u4", "u8"),
        (Settings(mode="int4_asym", group_size=-1), "u4", "u8"),
        (Settings(mode="int4_sym", group_size=32, backup_mode="int8_sym"), "i4", "i8"),
        (Settings(mode="int4_sym", group_size=32, all_layers=True), "i4", "i4"),
        (Settings(mode="nf4", group_size=32), "nf4", "u8"),
        (Settings(mode="mxfp4"), "f4e2m1", "u8"),
        (Settings(mode="fp4", group_size=32), "f4e2m1", "u8"),
        (Settings(mode="nvfp4"), "f4e2m1", "u8"),
        (Settings(mode="int2_sym", group_size=32), "u2", "u8"),
        (Settings(mode="int4_sym", group_size=32, awq=True, scale_estimation=True), "i4", "u8"),
    ],
    ids=lambda value: label(value) if isinstance(value, Settings) else value,
)
@pytest.mark.parametrize("storage", ["f32", "f16"])
def test_cpu_keeps_weights_compressed_at_run_time(
    llama: ov.Model, statistics: GetStatistics, settings: Settings, body: str, ends: str, storage: str
) -> None:
    """The execution graph multiplies with packed constants: 14 projections, the head, and the embedding's rows."""
    names = [weight.name for weight in find_weights(llama)]
    engine = Engine(cast_weights(llama, names, storage), statistics=statistics)
    expected: Counter[tuple[str, str]] = Counter({("FullyConnected", body): 14, ("Gather", ends): 1})
    expected["FullyConnected", ends] += 1
    assert weights_in_execution_graph(engine.apply(engine.plan(settings))) == expected


@pytest.mark.parametrize("mode", sorted(FORMATS))
def test_the_plan_says_what_the_cpu_expands(mode: str) -> None:
    """MatMuls, experts and lookups of the execution graph read packed constants, or the plan says they are expanded."""
    table = (-1.0, -0.25, 0.0, 0.5, 1.0) if mode == "codebook" else ()
    x, ends = ops.parameter([-1, 64], np.float32), ops.parameter([3], np.int32)
    experts = result_model([opset17.grouped_matmul(x, as_constant(normal(3, 64, 64), "W"), ends)], [x, ends])
    model = language_chain([normal(64, 64), normal(64, 64, seed=1)], normal(96, 64))
    cases = ((model, ("E",), "FullyConnected"), (model, ("W.|H",), "Gather"), (experts, (), "GatherMatmul"))
    for original, left_float, kind in cases:
        engine = Engine(original)
        all_layers = "int8" not in mode
        plan = engine.plan(Settings(mode, codebook=table, all_layers=all_layers, ignored_scope=left_float))
        found = weights_in_execution_graph(engine.apply(plan))
        formats = {storage for layer, storage in found if layer == kind}
        assert (FORMATS[mode].storage in formats) == (plan.expanded_percent == 0)
        assert bool(plan.expanded_percent) == any("saves disk space, not memory" in note for note in plan.notes)


@pytest.mark.parametrize("settings", EVERY_KIND, ids=label)
def test_applying_twice_gives_the_same_bytes(
    llama: ov.Model, statistics: GetStatistics, engine: Engine, settings: Settings
) -> None:
    """Two engines without a common bank make the same constants, one of them after many other settings."""
    engines = (engine, Engine(llama, statistics=statistics))
    first, second = (named_content(engine.apply(engine.plan(settings))) for engine in engines)
    assert first == second


@pytest.mark.parametrize("settings", [EVERY_KIND[2], EVERY_KIND[6], EVERY_KIND[9]], ids=label)
def test_number_of_threads_does_not_change_a_byte(
    llama: ov.Model, statistics: GetStatistics, settings: Settings
) -> None:
    """One thread, two or seven, over many small blocks: the same constants."""
    found = []
    for threads in (1, 2, 7):
        with limited_to(threads):
            engine = Engine(llama, statistics=statistics, block_elements=512)
            found.append(named_content(engine.apply(engine.plan(settings))))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("mode", ["int8_asym", "int4_asym", "int4_sym", "nf4", "mxfp4", "nvfp4", "cb4", "int3_sym"])
def test_blocks_of_rows_do_not_change_a_byte(llama: ov.Model, mode: str) -> None:
    """Rows are quantized alike whether in one block or one by one."""
    found = []
    for elements in (1, 1000, 1 << 17):
        engine = Engine(llama, block_elements=elements)
        found.append(named_content(engine.apply(engine.plan(Settings(mode=mode)))))
    assert found[0] == found[1] == found[2]


ANOTHER_PROCESS = """
import hashlib, os, sys
from pathlib import Path
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
import openvino as ov
sys.path[:0] = sys.argv[1].split(os.pathsep)
from test_engine import digest_of, EVERY_KIND
from autotune.compression.engine import Engine
from autotune.compression.ir.sizes import Sizes
from autotune.compression.calibration.statistics import StatisticsCache
folder = Path(sys.argv[2])
model, tokens = ov.Core().read_model(folder / "m.xml"), np.load(folder / "tokens.npy")
cache = StatisticsCache(folder / "statistics")
found = lambda: cache.get_or_collect(model, engine.activations, tokens, model_fingerprint="", precision="f32")
engine = Engine(model, statistics=found)
for settings in EVERY_KIND[-3:]:
    print(digest_of(engine.apply(engine.plan(settings))))
"""


def digest_of(model: ov.Model) -> str:
    """Of all constants with a name of their own."""
    return hashlib.sha256(repr(sorted(named_content(model).items())).encode()).hexdigest()


def test_another_process_on_one_core_makes_the_same_bytes(
    llama: ov.Model, statistics: GetStatistics, tokens: Tokens, tmp_path: Path
) -> None:
    """Statistics and variants computed again, in another folder and on one core, give the same constants."""
    ov.save_model(llama, tmp_path / "m.xml", compress_to_fp16=False)
    np.save(tmp_path / "tokens.npy", tokens)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", ANOTHER_PROCESS, path, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, check=False)
    assert done.returncode == 0, done.stderr
    engine = Engine(llama, statistics=statistics)
    assert done.stdout.split() == [digest_of(engine.apply(engine.plan(settings))) for settings in EVERY_KIND[-3:]]


def test_warm_bank_computes_nothing(llama: ov.Model, statistics: GetStatistics, tmp_path: Path) -> None:
    """After one engine has made all models, another one over the same folder computes no variant, error or scale."""
    first = Engine(llama, bank=Bank(tmp_path), statistics=statistics)
    models = [named_content(first.apply(first.plan(settings))) for settings in EVERY_KIND]
    assert first.counters["variants_computed"] > 0
    bank = Bank(tmp_path)
    second = Engine(llama, bank=bank, statistics=statistics)
    again = [named_content(second.apply(second.plan(settings))) for settings in EVERY_KIND]
    assert again == models
    assert second.counters["variants_computed"] == 0
    assert second.counters["variants_reused"] == sum(len(second.plan(settings).variants) for settings in EVERY_KIND)
    assert bank.counters["computed"] == 0


def test_a_variant_is_computed_once_for_all_plans(llama: ov.Model) -> None:
    """Two plans that share variants share the work: only what differs is computed."""
    engine = Engine(llama)
    engine.apply(engine.plan(Settings(mode="int4_sym", group_size=32)))
    assert engine.counters == {"variants_computed": 16, "variants_reused": 0}
    engine.apply(engine.plan(Settings(mode="int4_sym", group_size=32, ratio=0.5)))
    chosen = engine.plan(Settings(mode="int4_sym", group_size=32, ratio=0.5)).variants.values()
    new = sum(v.mode == "int8_asym" for v in chosen) - 2  # embedding and head had int8 before
    assert engine.counters == {"variants_computed": 16 + new, "variants_reused": 16 - new}


def test_bank_knows_a_weight_by_its_content(tmp_path: Path) -> None:
    """A changed weight is computed again, the others are not; names do not matter."""
    weights = [normal(32, 32, seed=i) for i in range(3)]
    first = Engine(chain(weights), bank=Bank(tmp_path))
    first.apply(first.plan(Settings()))
    changed = [weights[0], weights[1] + np.float32(0.5), weights[2]]
    second = Engine(chain(changed[::-1]), bank=Bank(tmp_path))
    second.apply(second.plan(Settings()))
    assert second.counters == {"variants_computed": 1, "variants_reused": 2}


def test_same_bytes_in_another_layout_are_another_weight(tmp_path: Path) -> None:
    """A weight whose bytes are those of another, in another shape or type, is not taken for it."""
    values = normal(16, 64)
    found = []
    for model in (chain([values]), chain([values.reshape(32, 32).copy()]), chain([values.reshape(64, 16).copy()])):
        engine = Engine(model, bank=Bank(tmp_path))
        found.append(named_content(engine.apply(engine.plan(Settings())))["W0/scale"][1])
        assert engine.counters["variants_computed"] == 1
    assert found == [(16, 1), (32, 1), (64, 1)]


def test_other_statistics_give_other_searched_variants_only(
    llama: ov.Model, statistics: GetStatistics, tokens: Tokens, tmp_path: Path
) -> None:
    """Variants that use activations depend on the text; plain variants are reused for every text."""
    cache = StatisticsCache(tmp_path / "statistics")
    bank = Bank()

    def other() -> Statistics:
        return cache.get_or_collect(llama, Engine(llama).activations, tokens // 2, model_fingerprint="")

    plain = Settings(mode="int4_sym", group_size=32)
    searched, scaled = replace(plain, scale_estimation=True), replace(plain, awq=True)
    first, second = Engine(llama, bank=bank, statistics=statistics), Engine(llama, bank=bank, statistics=other)
    models = {}
    for engine in (first, second):
        for settings in (plain, searched, scaled):
            models[engine, settings] = named_content(engine.apply(engine.plan(settings)))
    # Embedding and head are never searched; a scale is not worth it everywhere.
    changed = sum(v.awq or v.awq_output for v in second.plan(scaled).variants.values())
    assert 8 <= changed <= 14
    assert second.counters == {"variants_computed": 14 + changed, "variants_reused": 16 + 2 + 16 - changed}
    assert models[first, plain] == models[second, plain]
    assert models[first, searched] != models[second, searched]
    assert models[first, scaled] != models[second, scaled]


def test_damaged_bank_gives_the_same_model(llama: ov.Model, tmp_path: Path) -> None:
    """A flipped byte in the bank's folder costs a computation and nothing else."""
    settings = Settings(mode="int4_asym", group_size=32)
    first = Engine(llama, bank=Bank(tmp_path))
    expected = named_content(first.apply(first.plan(settings)))
    path = sorted(tmp_path.rglob("*.safetensors"))[3]
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)
    second = Engine(llama, bank=Bank(tmp_path))
    assert named_content(second.apply(second.plan(settings))) == expected
    assert second.counters == {"variants_computed": 1, "variants_reused": 15}


def test_a_model_outlives_the_bank(llama: ov.Model, tokens: Tokens) -> None:
    """A compressed model needs neither its engine nor the bank that its bytes came from."""
    bank = Bank(memory_limit=1)
    engine = Engine(llama, bank=bank)
    compressed = engine.apply(engine.plan(Settings(mode="int4_sym", group_size=32)))
    expected = logits(compressed, tokens[:1])
    del engine, bank
    for seed in range(4):
        other = Engine(language_chain([normal(64, 64, seed=seed)] * 8, normal(300, 64)))
        other.apply(other.plan(Settings(mode="int4_sym", group_size=32)))
    assert np.array_equal(logits(compressed, tokens[:1]), expected)


def test_two_threads_may_apply_at_once(llama: ov.Model, statistics: GetStatistics, tmp_path: Path) -> None:
    """Engines over one bank folder in several threads make the models that one alone makes."""
    settings = EVERY_KIND[-3:]
    alone = Engine(llama, statistics=statistics)
    expected = [named_content(alone.apply(alone.plan(s))) for s in settings]
    found: dict[int, list[Any]] = {}

    def work(worker: int) -> None:
        engine = Engine(llama.clone(), bank=Bank(tmp_path), statistics=statistics)
        found[worker] = [named_content(engine.apply(engine.plan(s))) for s in settings]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: expected, 1: expected}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Settings(), Settings(mode="int4_asym", group_size=32)),
        (Settings(mode="int4_asym", group_size=32), Settings(mode="int4_asym", group_size=-1)),
        (Settings(mode="int4_asym", group_size=-1, ratio=0.5), Settings(mode="int4_asym", group_size=-1)),
        (
            Settings(mode="int4_sym", group_size=32, scale_estimation=True),
            Settings(mode="int4_sym", group_size=32),
        ),
        (Settings(mode="int4_sym", group_size=-1, awq=True), Settings(mode="int4_sym", group_size=-1)),
    ],
    ids=label,
)
def test_better_settings_are_nearer_to_the_original(
    llama: ov.Model, statistics: GetStatistics, tokens: Tokens, better: Settings, worse: Settings
) -> None:
    """On the calibration text, logits lie nearer to the original's where more bits or more work went into a model."""
    engine, original = Engine(llama, statistics=statistics), logits(llama, tokens)
    near, far = (distance(original, logits(engine.apply(engine.plan(s)), tokens)) for s in (better, worse))
    assert near < far


def test_plans_of_another_model_are_refused(llama: ov.Model, statistics: GetStatistics) -> None:
    """A weight or an AWQ group that this model does not have is an error that names it."""
    engine = Engine(llama, statistics=statistics)
    other = Engine(chain([normal(32, 32)]))
    with pytest.raises(PlanError, match="another model: it compresses W0"):
        engine.apply(other.plan(Settings()))
    scaled = engine.plan(Settings(mode="int4_sym", group_size=32, awq=True))
    with pytest.raises(PlanError, match="another model: it compresses __module"):
        other.apply(replace(scaled, variants={}))


def test_the_size_of_the_compressed_model_is_the_footprint(llama: ov.Model) -> None:
    """Counting a model's distinct constants gives the size that the plan predicts."""
    engine = Engine(llama)
    for settings in EVERY_KIND[:7]:
        plan = engine.plan(settings)
        assert Sizes(engine.apply(plan)).original == plan.footprint


def test_a_compressed_model_is_refused_as_an_original(llama: ov.Model) -> None:
    """A model without float weights has nothing to plan, and the message says what to name instead."""
    engine = Engine(llama)
    compressed = engine.apply(engine.plan(Settings()))
    with pytest.raises(PlanError, match="give the original model"):
        Engine(compressed).plan(Settings())
