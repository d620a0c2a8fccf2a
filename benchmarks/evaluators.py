"""Time of the evaluators and precision of their scores; one part per command.

    python benchmarks/evaluators.py speed        # similarity by decoding one prompt at a time and by ours, in turn
    python benchmarks/evaluators.py errors       # standard errors between neighbouring settings; coverage of intervals
    python benchmarks/evaluators.py kept         # the divergence's bias by what is kept of a distribution
    python benchmarks/evaluators.py memory       # peak memory at a vocabulary of 131,072 tokens
    python benchmarks/evaluators.py harness      # word perplexity and lambada beside lm_eval's own

Every command takes --model DIR and --text FILE; the default is the demo model with its texts. `speed` on a model of
1.1 B parameters that is made up (see random_llama.py), with anybody's tokenizer:

    python benchmarks/evaluators.py speed --model LLAMA --tokenizer examples/demo/model --prompts 4 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from common import DEMO

from autotune.common.cache import Cache
from autotune.compression.bank import Bank
from autotune.compression.engine import Engine
from autotune.compression.settings import Settings
from autotune.evaluation import SCORING_CONFIG
from autotune.models.runtime.compile import end_token_ids
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from autotune.models.source import SourceModel, resolve_model
from evaluators import _divergence
from evaluators._embedder import embed
from evaluators.perplexity import Perplexity
from evaluators.similarity import Similarity

CANDIDATES = {
    "int8_asym": Settings(mode="int8_asym"),
    "int4_asym g32": Settings(mode="int4_asym", group_size=32),
    "int4_sym g128": Settings(mode="int4_sym", group_size=128),
}
NEIGHBOURS = {
    "int4_asym g32": Settings(mode="int4_asym", group_size=32),
    "int4_asym g64": Settings(mode="int4_asym", group_size=64),
    "int4_asym g128": Settings(mode="int4_asym", group_size=128),
    "int4_sym g64": Settings(mode="int4_sym", group_size=64),
    "int4_sym g128": Settings(mode="int4_sym", group_size=128),
    "int4_asym g64 ratio 0.8": Settings(
        mode="int4_asym", group_size=64, ratio=0.8, sensitivity_metric="weight_quantization_error"
    ),
}
PAIRS = [
    ("int4_asym g32", "int4_asym g64"),
    ("int4_asym g64", "int4_asym g128"),
    ("int4_asym g64", "int4_sym g64"),
    ("int4_sym g64", "int4_sym g128"),
    ("int4_asym g64 ratio 0.8", "int4_asym g64"),
]


class Bench:
    """The original with its tokenizer and engine."""

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        self.source: SourceModel = resolve_model(options.model, cache=Cache.resolve(folder))
        self.model = self.source.read()
        self.tokenizer = tokenizer_of(options.tokenizer) if options.tokenizer else self.source.tokenizer()
        self.ends = end_token_ids(self.source.path, self.tokenizer)
        self.engine = Engine(self.model, bank=Bank())

    def open(self, settings: Settings | None = None) -> OpenVINOLanguageModel:
        """The original, or a candidate with these settings, ready to be scored."""
        model = self.model if settings is None else self.engine.apply(self.engine.plan(settings))
        return OpenVINOLanguageModel(model, self.tokenizer, eos_token_ids=self.ends)

    @contextmanager
    def generate(self, settings: Settings) -> Iterator[Any]:
        """Answers as WhoWhatBench asks for them: optimum-intel's generate(), a prompt at a time, scored in f32."""
        import torch
        from optimum.intel import OVModelForCausalLM

        with tempfile.TemporaryDirectory() as folder:
            for file in self.source.path.glob("*.json"):
                shutil.copy(file, folder)
            ov.save_model(
                self.engine.apply(self.engine.plan(settings)), f"{folder}/openvino_model.xml", compress_to_fp16=False
            )
            config = {key: str(value) for key, value in SCORING_CONFIG.items()}
            model = OVModelForCausalLM.from_pretrained(folder, ov_config=config)

            def answer(prompt: list[int], limit: int) -> list[int]:
                tokens = torch.tensor([prompt])
                out = model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=limit,
                    do_sample=False,
                    pad_token_id=min(self.ends),
                )
                return [token for token in out[0, len(prompt) :].tolist() if token not in self.ends]

            answer([1, 2], 2)
            yield answer


def tokenizer_of(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def clock(work: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def speed(bench: Bench, options: argparse.Namespace) -> None:
    every = Similarity()._prompts
    evaluator = Similarity(prompts=tuple(every[: options.prompts]), embedder=options.embedder, decode="front")
    with bench.open() as original:
        reference = evaluator.reference(original)
    prompts = evaluator._tokenised(original)
    print(f"{len(prompts)} prompts, answers of {evaluator.options.max_new_tokens} tokens at most, embedding included.")
    print("seconds, and how many times faster ours and ours without decoding are; WWB is its call of generate()")
    print("| setting | WWB | plain loop | ours | without decoding | same answers | answers that pass a tie |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in options.settings or CANDIDATES:
        settings = CANDIDATES[name]
        with bench.open(settings) as candidate, bench.generate(settings) as generate:
            rounds = [_speed_round(evaluator, candidate, generate, reference, prompts) for _ in range(options.rounds)]
        wwb, plain, ours, cheap = (
            statistics.median(column) for column in zip(*(seconds for seconds, *_ in rounds), strict=True)
        )
        same, ties = min(one[1] for one in rounds), rounds[0][2]
        print(
            f"| {name} | {wwb:.2f} | {plain:.2f} | {ours:.2f} ({wwb / ours:.1f}x, {plain / ours:.1f}x) | {cheap:.2f} "
            f"({wwb / cheap:.1f}x, {plain / cheap:.1f}x) | {same} of {len(prompts)} | {100 * ties:.0f}% |",
            flush=True,
        )


def _speed_round(
    evaluator: Similarity, candidate: OpenVINOLanguageModel, generate: Any, reference: Any, prompts: Any
) -> tuple[list[float], int, float]:
    """Seconds of four ways in turn; answers that are the same in all of them; the share that passes a tie."""
    limit, embedder = evaluator.options.max_new_tokens, evaluator.options.embedder

    def one_by_one(answer: Any) -> tuple[list[list[int]], float]:
        answers = [answer(prompt, limit) for prompt in prompts]
        texts = [candidate.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in answers]
        return answers, float((embed(embedder, texts) * reference["embeddings"]).sum(axis=1).mean())

    def afresh(score: Any) -> Any:
        evaluator._verified = None  # what `evaluate` takes over from `preview` would be free here
        return score(candidate, reference)

    (seconds_each, similarity), wwb = clock(lambda: one_by_one(generate))
    (plainly, _), plain = clock(lambda: one_by_one(candidate.greedy))
    scores, ours = clock(lambda: afresh(evaluator.evaluate))
    _, cheap = clock(lambda: afresh(evaluator.preview))
    complete = evaluator._answers(candidate, reference, evaluator._verify(candidate, reference)[0])
    same = sum(a == b == c for a, b, c in zip(seconds_each, plainly, complete, strict=True))
    if same == len(prompts) and abs(scores["similarity"].value - similarity) > 1e-5:
        raise SystemExit(f"similarity {scores['similarity'].value} is not {similarity}")
    return [wwb, plain, ours, cheap], same, scores["answer_ties"].value


def evaluators(options: argparse.Namespace) -> dict[str, Any]:
    every = tuple(p for name in ("default", "short", "languages") for p in Similarity(prompts=name)._prompts)
    return {
        "perplexity": Perplexity(path=options.text, sequence_length=512, samples=options.windows),
        "similarity": Similarity(prompts=every, embedder=options.embedder),
    }


def scored(bench: Bench, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every metric of the neighbouring settings."""
    used = evaluators(options)
    with bench.open() as original:
        references = {name: evaluator.reference(original) for name, evaluator in used.items()}
    found: dict[str, dict[str, Any]] = {}
    for setting, settings in NEIGHBOURS.items():
        found[setting] = {}
        with bench.open(settings) as candidate:
            for name, evaluator in used.items():
                found[setting] |= evaluator.evaluate(candidate, references[name])
    return found


def errors(bench: Bench, options: argparse.Namespace) -> None:
    found = scored(bench, options)
    metrics = ["kl_divergence", "kl_divergence_median", "kl_divergence_p99", "top1_agreement", "perplexity"]
    metrics += ["answer_kl_divergence", "answer_top1_agreement", "similarity", "sdt_norm", "fdt"]
    print("standard errors of the paired difference that two settings are apart")
    print("| metric | " + " | ".join(f"{a} / {b}" for a, b in PAIRS) + " |")
    print("|---|" + "---:|" * len(PAIRS))
    for metric in metrics:
        cells = []
        for pair in PAIRS:
            a, b = (np.array(found[name][metric].values) for name in pair)
            difference = np.log(a) - np.log(b) if metric == "perplexity" else a - b
            cells.append(f"{abs(difference.mean()) / (difference.std(ddof=1) / math.sqrt(len(difference))):.1f}")
        print(f"| {metric} | " + " | ".join(cells) + " |")
    coverage(found["int4_asym g64"])


def coverage(scores: dict[str, Any]) -> None:
    """Return the share of 95% intervals from a few sequences that contain the value of all of them."""
    from scipy.stats import t

    random = np.random.default_rng(0)
    for metric, size in (("kl_divergence", 16), ("answer_kl_divergence", 27), ("similarity", 27)):
        values = np.array(scores[metric].values)
        hits = 0
        for _ in range(200):
            drawn = random.choice(values, size)
            error = drawn.std(ddof=1) / math.sqrt(size)
            hits += abs(drawn.mean() - values.mean()) <= t.ppf(0.975, size - 1) * error
        print(f"{metric}: {size} of {len(values)} sequences drawn 200 times, {hits / 2:.1f}% of the intervals hold")


def kept(bench: Bench, options: argparse.Namespace) -> None:
    windows = Perplexity(path=options.text, sequence_length=512, samples=4)
    whole: dict[str, float] = {}
    complete = _divergence.COMPLETE_VOCABULARY
    for top, sampled in [(0, 0), (64, 64), (256, 64), (1024, 64)]:
        _divergence.COMPLETE_VOCABULARY = 0 if top else complete
        _divergence.TOP, _divergence.SAMPLED = top, sampled
        with bench.open() as original:
            reference = windows.reference(original)
        for name, settings in CANDIDATES.items():
            with bench.open(settings) as candidate:
                score = windows.evaluate(candidate, reference)["kl_divergence"].value
            whole.setdefault(name, score)
            what = f"top {top} and {sampled} of the tail" if top else "everything"
            print(f"{what}: {name} {score:.4e} ({100 * (score / whole[name] - 1):+.2f}%)", flush=True)


def memory(options: argparse.Namespace) -> None:
    """A random model with 131,072 tokens; the reference of 16,384 positions is written, mapped and used."""
    from autotune.evaluation.stores import ReferenceStore

    tokenizer = tokenizer_of(options.tokenizer or options.model)
    with tempfile.TemporaryDirectory() as folder:
        source = resolve_model(
            str(_random_model(Path(folder) / "hf", tokenizer)), cache=Cache.resolve(f"{folder}/cache")
        )
        evaluator = Perplexity(path=options.text, sequence_length=512, samples=options.windows)
        evaluator.fingerprint()
        with OpenVINOLanguageModel(source.path, tokenizer) as model:
            model.logits(np.ones((1, 8), np.int64))
            before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            store = ReferenceStore(Path(folder))
            (reference, _), first = clock(lambda: store.get_or_create("it", lambda: evaluator.reference(model)))
            after = _resident("VmHWM")
            _, second = clock(lambda: evaluator.evaluate(model, reference))
            print(
                f"{reference['tokens'].size} tokens of {model.vocabulary_size}: reference {first:.1f} s, "
                f"{sum(array.nbytes for array in reference.values()) / 1e6:.0f} MB on disk, "
                f"peak {after - before:.0f} MB above the model; evaluation {second:.1f} s, "
                f"peak {_resident('VmHWM') - before:.0f} MB"
            )


def _random_model(folder: Path, tokenizer: Any) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=131072, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def harness(bench: Bench, options: argparse.Namespace) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.wikitext import preprocess_wikitext

    from evaluators.lambada import Lambada
    from evaluators.word_perplexity import WordPerplexity

    with tempfile.TemporaryDirectory() as folder:
        ours = WordPerplexity(path=options.text, samples=options.documents)
        pages = ours._documents
        sentences = [
            s.strip() for page in pages for s in page.split(" . ") if 20 < len(s.split()) < 60 and "\n" not in s
        ]
        data = {"page": [{"page": page} for page in pages], "text": [{"text": s} for s in sentences[:200]]}
        tasks = []
        for name, rows in data.items():
            file = Path(folder) / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            tasks.append({"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}})
        tasks[0] |= {
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": preprocess_wikitext.wikitext_detokenizer,
            "process_results": _word_perplexity,
            "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity"}],
        }
        tasks[1] |= {
            "test_split": "test",
            "output_type": "loglikelihood",
            "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
            "doc_to_target": "{{' '+text.split(' ')[-1]}}",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            ],
        }
        lm_eval_scores = lm_eval.simple_evaluate(
            HFLM(options.model, device="cpu", dtype="float32", batch_size=1, max_length=2048),
            tasks=tasks,
            bootstrap_iters=0,
        )["results"]
        with bench.open() as model:
            words = Lambada(path=Path(folder) / "text.jsonl")
            own_scores = {**ours.original(ours.reference(model)), **words.original(words.reference(model))}
    for name, task, key in (
        ("word_perplexity", "page", "word_perplexity,none"),
        ("lambada_perplexity", "text", "perplexity,none"),
        ("lambada_accuracy", "text", "acc,none"),
    ):
        value, other = own_scores[name].value, lm_eval_scores[task][key]
        print(f"{name}: {value:.6f}, lm_eval {other:.6f} ({100 * (value / other - 1):+.4f}%)")


def _word_perplexity(page: dict[str, Any], results: Any) -> dict[str, Any]:
    """Of what lm_eval's wikitext tells, the metric that is compared: lm_eval wants an aggregation for each."""
    from lm_eval.tasks.wikitext import preprocess_wikitext

    return {"word_perplexity": preprocess_wikitext.process_results(page, results)["word_perplexity"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"speed": speed, "errors": errors, "kept": kept, "harness": harness}
    parser.add_argument("command", choices=[*commands, "memory"])
    parser.add_argument("--model", default=str(DEMO / "model"))
    parser.add_argument("--tokenizer", help="folder of one, for a model that has none")
    parser.add_argument("--settings", nargs="*", choices=[*CANDIDATES], help="only these, in `speed`")
    parser.add_argument("--text", type=Path, default=DEMO / "report.txt")
    parser.add_argument("--embedder", default="minilm")
    parser.add_argument("--prompts", type=int, help="only so many prompts, for a large model")
    parser.add_argument("--rounds", type=int, default=3, help="of alternating timings")
    parser.add_argument("--windows", type=int, default=32, help="scored windows of 512 tokens")
    parser.add_argument("--documents", type=int, default=8, help="documents of `harness`")
    options = parser.parse_args()
    if options.command == "memory":
        memory(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        commands[options.command](Bench(options, folder), options)


if __name__ == "__main__":
    main()
