"""Families: for each model type that optimum-intel exports as a text generator, what works with a tiny random model.

    python benchmarks/families.py --minutes 5      # the types that the installed transformers has no result for
    python benchmarks/families.py --only mixtral   # one type again

Results are kept in docs/data/families.json by version of transformers, and written after each type: repeat the command
until it has nothing left to do. Each type is measured in a process of its own: a crash or the time limit ends that
process alone. The steps:

    export             autotune's intake and export
    original_logits    the logits of the export equal those of transformers
    scoring            scores in small batches and answers to several prompts are those of whole sequences
    weights            the constants that NNCF compresses to int8_asym are compressed
    int8               int8_asym
    int4               int4_asym in groups of 32, with AWQ, scale estimation and GPTQ
    budget             80% of the size of int8, formats chosen for each weight
    logits             all three have the logits of the model with float weights that NumPy decodes from their constants
    optimum, genai     OVModelForCausalLM and LLMPipeline load the last folder and generate

A step that fails has its error in place of a result.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import common  # noqa: F401
from builders import decoded, distance, logits
from families import VOCABULARY, write_tokenizer

import autotune
from autotune.common.machine import machine

DATA = Path(__file__).parents[1] / "docs" / "data" / "families.json"
STEPS: dict[str, tuple[str, ...]] = {
    "export": (),
    "original_logits": ("export",),
    "scoring": ("export",),
    "weights": ("export",),
    "int8": ("export",),
    "int4": ("export",),
    "budget": ("int8",),
    "logits": ("int8",),
    "optimum": ("int8",),
    "genai": ("int8",),
}
"""Each step with the steps whose results it needs."""

TOLERANCE = 1e-4
PROMPT = "Mira keeps eleven hens"

TOKENS = np.random.default_rng(5).integers(1, VOCABULARY, (8, 48), dtype=np.int64)
CALIBRATION, EVALUATION = TOKENS[:4], TOKENS[4:]

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "sliding_window": 32,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 96,
    "intermediate_size_mlp": 96,
}
"""Options for every configuration class that has them."""

_DECODER = {"d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
_DECODER |= {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
_DECODER |= {"is_decoder": True, "is_encoder_decoder": False}
_MAMBA = {"state_size": 8, "time_step_rank": 8}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
_LINEAR |= {"linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}
_LATENT = {"num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "n_group": 1}
_LATENT |= {"qk_nope_head_dim": 16, "v_head_dim": 16, "first_k_dense_replace": 1, "topk_group": 1}

OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bart", "bigbird_pegasus", "mbart", "blenderbot", "blenderbot-small", "pegasus"), _DECODER),
    "marian": {**_DECODER, "decoder_vocab_size": VOCABULARY},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 32},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "xglm": {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4},
    "mpt": {"max_seq_len": 128},
    "falcon": {"alibi": False},
    "phi": {"num_key_value_heads": 4},
    "mamba": _MAMBA,
    "falcon_mamba": _MAMBA,
    "zamba2": {"mamba_d_state": 8, "mamba_headdim": 32, "mamba_ngroups": 1, "num_mem_blocks": 1}
    | {"hybrid_layer_ids": [1]}
    | {"layers_block_type": ["mamba", "hybrid"], "attention_hidden_size": 128, "attention_head_dim": 32}
    | {"num_key_value_heads": 4, "chunk_size": 16},
    "granitemoehybrid": {"mamba_d_state": 8, "mamba_d_head": 32, "mamba_n_heads": 4, "shared_intermediate_size": 96}
    | {"layer_types": ["mamba", "attention"], "mamba_chunk_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "qwen3_moe": {"head_dim": 16},
    "qwen2_moe": {"mlp_only_layers": [0]},
    "qwen3_next": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": _LINEAR,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "afmoe": {"num_dense_layers": 1, "layer_types": ["sliding_attention", "full_attention"]},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8}}
    | {"ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2}, "max_seq_len": 128},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 32}
    | {"vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0, "laurel_rank": 32}
    | {"intermediate_size": [128, 128], "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 32}
    | {"vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0, "global_head_dim": 32},
    "llama4_text": {"attention_chunk_size": 32},
}


def registered() -> dict[str, tuple[str | None, str | None]]:
    """Return the model types that optimum-intel exports for text generation, with their limits on transformers."""
    from optimum.exporters.openvino import model_configs
    from optimum.exporters.tasks import TasksManager

    _ = model_configs  # registers the types
    found = {}
    for name, exporters in TasksManager._LIBRARY_TO_SUPPORTED_MODEL_TYPES["transformers"].items():
        tasks = exporters.get("openvino", {})
        task = next((task for task in tasks if task.startswith("text-generation")), None)
        if task is not None:
            limits = (getattr(tasks[task].func, f"{end}_TRANSFORMERS_VERSION", None) for end in ("MIN", "MAX"))
            found[name] = tuple(None if limit is None else str(limit) for limit in limits)
    return found


def write_checkpoint(model_type: str, folder: Path) -> None:
    """Write a tiny model with random weights, as its configuration class ties them, with a tokenizer."""
    import torch
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    if model_type not in CONFIG_MAPPING:
        raise ValueError("this transformers does not have the architecture")
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError("only a part of another architecture")
    default = AutoConfig.for_model(model_type)
    names = {**default.to_dict(), **getattr(default, "attribute_map", {})}
    if "text_config" in names:
        raise ValueError("has other parts than a text decoder")
    options = {name: value for name, value in SIZES.items() if name in names} | OVERRIDES.get(model_type, {})
    config = AutoConfig.for_model(model_type, **options)
    config.pad_token_id = getattr(config, "pad_token_id", None)  # see `autotune.models.exporters.load_config`
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 or name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
            elif not name.endswith(("A_log", "D", "dt")):
                parameter.uniform_(0.4, 1.6)
    model.save_pretrained(folder)
    write_tokenizer(folder)


class Measurement:
    """The steps of one model type, in a folder; see the module."""

    def __init__(self, model_type: str, folder: Path) -> None:
        self.model_type = model_type
        self.folder = folder
        self.hf = folder / "hf"
        self.compressed: dict[str, Any] = {}

    def export(self) -> str:
        """Write a checkpoint and export it."""
        from autotune.common.cache import Cache
        from autotune.models.source import resolve_model

        write_checkpoint(self.model_type, self.hf)
        source = resolve_model(str(self.hf), cache=Cache(self.folder / "cache"))
        self.original = source.read()
        return f"{sum(node.get_type_name() == 'MatMul' for node in self.original.get_ops())} MatMuls"

    def original_logits(self) -> str:
        """Compare the export with transformers."""
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.hf, dtype=torch.float32)
        with torch.no_grad():
            expected = model(torch.tensor(EVALUATION)).logits.numpy()
        return _near(distance(expected, logits(self.original, EVALUATION)))

    def scoring(self) -> str:
        """Compare logits in small batches, and answers to several prompts, with those of whole sequences."""
        from autotune.models.runtime.language_model import BatchLimits, OpenVINOLanguageModel

        limits = BatchLimits(logits_bytes=1, padding=2.0)
        sequences = [TOKENS[4].tolist(), TOKENS[5, :40].tolist()]
        with OpenVINOLanguageModel(self.original, None, eos_token_ids=[], limits=limits) as model:
            whole = [model.logits(np.array([sequence]))[0] for sequence in sequences]
            for index, start, found in model.scan(sequences, [0, 0]):
                _near(distance(whole[index][start : start + len(found)], found))
            answers = model.greedy_batch(sequences, [8, 8], drafts=sequences)
            for sequence, answer in zip(sequences, answers, strict=True):
                best = model.logits(np.array([sequence + answer]))[0, len(sequence) - 1 : -1].argmax(axis=-1)
                if answer != best.tolist():
                    raise ValueError(f"decoded {answer}, expected {best.tolist()}")
        return "equal"

    def weights(self) -> str:
        """Compare the compressed constants with NNCF's."""
        import nncf

        before = _float_constants(self.original)
        peer = before - _float_constants(nncf.compress_weights(self.original.clone()))
        ours = before - _float_constants(autotune.compress(self.original, progress=False).model)
        if peer - ours:
            raise ValueError(f"not compressed, but by NNCF: {', '.join(sorted(peer - ours))}")
        return f"{len(ours)}" if ours == peer else f"{len(ours)}, {len(ours - peer)} more than NNCF"

    def int8(self) -> str:
        """Compress by the default settings."""
        return self._compress("int8")

    def int4(self) -> str:
        """Compress with every algorithm that combines."""
        algorithms = {"awq": True, "scale_estimation": True, "gptq": True, "calibration": CALIBRATION}
        return self._compress("int4", mode="int4_asym", group_size=32, **algorithms)

    def budget(self) -> str:
        """Compress to a size."""
        size = int(self.compressed["int8"].footprint * 0.8)
        return self._compress("budget", max_size=size, calibration=CALIBRATION, evaluation=EVALUATION)

    def _compress(self, name: str, **options: Any) -> str:
        places = {"cache": self.folder / "cache", "output": self.folder / name}
        self.compressed[name] = autotune.compress(self.hf, progress=False, **places, **options)
        return f"{self.compressed[name].footprint} bytes"

    def logits(self) -> str:
        """Compare the compressed models with float ones."""
        found = []
        for small in self.compressed.values():
            expected = logits(with_float_weights(small.model), EVALUATION)
            found.append(distance(expected, logits(small.model, EVALUATION)))
        return _near(max(found))

    def optimum(self) -> str:
        """Generate with optimum-intel."""
        from optimum.intel import OVModelForCausalLM
        from transformers import AutoTokenizer

        folder = self.folder / list(self.compressed)[-1]
        model = OVModelForCausalLM.from_pretrained(folder)
        inputs = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        length = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False).shape[1]
        return f"{length - inputs['input_ids'].shape[1]} tokens"

    def genai(self) -> str:
        """Generate with OpenVINO GenAI."""
        import openvino_genai

        pipeline = openvino_genai.LLMPipeline(str(self.folder / list(self.compressed)[-1]), "CPU")
        answer = pipeline.generate([PROMPT], max_new_tokens=4, ignore_eos=True, apply_chat_template=False)
        return f"{len(answer.texts)} answer"


def with_float_weights(compressed: Any) -> Any:
    """Replace each compressed weight by a float constant of the values that NumPy computes from its bytes."""
    from openvino import opset15 as ops

    model = compressed.clone()
    names = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    for scale in [name for name in names if name.endswith("/scale") and "awq_mul" not in name]:
        weight = scale.removesuffix("/scale")
        port = next(port for port in (0, 1) if f"{weight}/fq_weights_{port}" in names)
        last = f"{weight}/fq_weights_{port}"
        last = next(name for name in (f"{last}/convert", f"{last}/reshape", last) if name in names)
        output = names[last].output(0)
        constant = ops.constant(decoded(compressed, weight).reshape(tuple(output.get_shape())))
        for target in output.get_target_inputs():
            target.replace_source_output(constant.output(0))
    return model


def _near(found: float) -> str:
    if not found < TOLERANCE:
        raise ValueError(f"relative difference {found:.1e}, more than {TOLERANCE:g}")
    return f"{found:.1e}"


def _float_constants(model: Any) -> set[str]:
    nodes = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    return {node.get_friendly_name() for node in nodes if node.get_element_type().is_real()}


def measure(model_type: str, send: Callable[[dict[str, Any]], None]) -> None:
    """Send the steps of a type after each of them: ``result`` or ``error``, and ``seconds``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    steps: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        measurement = Measurement(model_type, Path(folder))
        for step, needed in STEPS.items():
            if any("result" not in steps.get(before, {}) for before in needed):
                continue
            send({**steps, step: {"error": "the process ended in this step"}})
            started = time.perf_counter()
            try:
                steps[step] = {"result": getattr(measurement, step)()}
            except Exception as error:
                message = " ".join(str(error).split()).replace(str(measurement.hf), "the folder")
                steps[step] = {"error": f"{type(error).__name__}: {message}"[:400]}
            steps[step]["seconds"] = round(time.perf_counter() - started, 1)
            send(steps)


def in_a_process(model_type: str, limit: float) -> dict[str, Any]:
    """Measure one type in a forked process, which has all packages imported; it is killed at the limit in seconds."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(model_type, send.send))
    child.start()
    send.close()
    steps: dict[str, Any] = {}
    ends = time.monotonic() + limit
    try:
        while receive.poll(max(0.0, ends - time.monotonic())):
            steps = receive.recv()
        steps[list(steps)[-1] if steps else "export"] = {"error": f"not done after {limit:.0f} s"}
    except EOFError:
        pass
    child.kill()
    child.join()
    return steps


def main() -> None:
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="model types with commas between them, measured again")
    parser.add_argument("--minutes", type=float, default=5, help="no type begins after this")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one type")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = json.loads(DATA.read_text("utf-8")) if DATA.is_file() else {"rows": {}}
    packages = ("optimum-intel", "openvino", "openvino-genai", "nncf")
    found |= {"command": "python benchmarks/families.py", "model": "tiny random models", "machine": machine()}
    found["measured"] = "one tiny random checkpoint of each model type: export, scoring, compression, loading"
    found |= {"versions": {package: version(package) for package in packages}, "date": str(date.today())}
    gc.freeze()  # the converter collects garbage often, with many objects of imported packages to look at
    installed, ends = transformers.__version__, time.monotonic() + 60 * options.minutes
    for name, (minimum, maximum) in registered().items():
        entry = found["rows"].setdefault(name, {"results": {}})
        entry |= {"minimum": minimum, "maximum": maximum}
        if name not in options.only.split(",") if options.only else installed in entry["results"]:
            continue
        if time.monotonic() > ends:
            print("more to do: run it again")
            break
        entry["results"][installed] = steps = in_a_process(name, options.limit)
        failed = {step: result["error"] for step, result in steps.items() if "error" in result}
        print(f"{name}: {failed or 'all steps'} ({sum(s.get('seconds', 0) for s in steps.values()):.0f} s)", flush=True)
        DATA.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
