"""Text generation: stateful causal language models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autotune.models.runtime.graph import why_not_scorable
from autotune.models.tasks.task import WIKITEXT, Loss, Task

if TYPE_CHECKING:
    import openvino as ov

    from autotune.models.runtime.language_model import OpenVINOLanguageModel

OPTIMUM = """\
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = OVModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
"""
GENAI = """\
import openvino_genai

pipeline = openvino_genai.LLMPipeline(".", "CPU")  # this folder; download it first where it is on the hub
print(pipeline.generate("Once upon a time", max_new_tokens=20))
"""


SINGLE_TOKENS = 1024
"""Tokens of a study's text on which single weights are measured."""

PLAN_TOKENS = 8192
"""Tokens on which the plans are measured that correct the error table."""


class _Divergence(Loss):
    """The loss on windows of a text, as long as those of the study."""

    def parts(self, text: Mapping[str, Any]) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """See `Loss`; the number of tokens is about `SINGLE_TOKENS` and `PLAN_TOKENS`."""
        length, most = int(text.get("sequence_length") or 512), text.get("samples")

        def windows(tokens: int) -> dict[str, int]:
            samples = max(1, tokens // length)
            return {"sequence_length": length, "samples": samples if most is None else min(samples, int(most))}

        return windows(SINGLE_TOKENS), windows(PLAN_TOKENS)


class TextGeneration(Task):
    """See `Task`. It is the task of every model that no other task claims."""

    name = "text-generation"
    label = "Text generation"
    kind = "causal language model"
    export_class = "OVModelForCausalLM"
    export_task = "text-generation-with-past"
    examples: ClassVar[tuple[str, ...]] = ("llama", "qwen3", "gemma3_text")
    evaluators: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "similarity": {
            "prompts": "default",
            "max_new_tokens": 128,
            "embedder": "sentence-transformers/all-mpnet-base-v2",
        },
        "perplexity": {**WIKITEXT, "split": "test", "sequence_length": 512, "samples": 16},
    }
    loss = _Divergence(
        "perplexity",
        "kl_divergence",
        "KL divergence",
        " nats a token",
        short={"sequence_length": 256, "samples": 4},
        full={"sequence_length": 512, "samples": 16},
    )
    pipeline_tag = "text-generation"
    distillable = True
    generates = True

    def matches(self, config: Mapping[str, Any], files: Collection[str]) -> bool:
        """See `Task`; the registry falls back on this task."""
        return False

    def snippets(self, folder: Path | None) -> Sequence[str]:
        """See `Task`."""
        return OPTIMUM, GENAI

    def why_not_scorable(
        self, inputs: Iterable[Any], outputs: Iterable[Any], *, states: int | None = None, fed: Collection[str] = ()
    ) -> str | None:
        """See `Task`."""
        return why_not_scorable(inputs, outputs, states=states, fed=fed)

    def compiled(
        self,
        model: ov.Model | Path,
        tokenizer: Any,
        *,
        folder: Path | None = None,
        device: str = "CPU",
        ov_config: Mapping[str, Any] | None = None,
        constants: Mapping[str, ov.Tensor] | None = None,
        columns: int = 0,
    ) -> OpenVINOLanguageModel:
        """See `Task`."""
        from autotune.models.runtime.compile import end_token_ids
        from autotune.models.runtime.language_model import BatchLimits, OpenVINOLanguageModel

        return OpenVINOLanguageModel(
            model,
            tokenizer,
            device=device,
            ov_config=ov_config,
            constants=constants,
            limits=BatchLimits(columns=columns),
            eos_token_ids=end_token_ids(folder, tokenizer),
            embeddings=self.embeddings(model if isinstance(model, Path) else folder, device, ov_config),
        )


TASK = TextGeneration()
