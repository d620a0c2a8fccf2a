"""Process that runs one model in OpenVINO GenAI and measures its resident memory, once.

    python -m evaluators._memory_worker FOLDER TOKENS PROPERTIES

It writes one line of JSON, in bytes above the memory of a process that has only imported OpenVINO GenAI: ``loading``,
the peak up to the first short answer; ``loaded``, the memory after it; ``running``, the peak of a prompt of TOKENS
tokens, None for 0. PROPERTIES is a JSON object, passed to the pipeline.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]

_SHORT, _NEW = 8, 2


def main(folder: str, tokens: int, properties: dict[str, Any]) -> None:
    """Measure, and print the result."""
    import openvino as ov
    import openvino_genai

    ov.Core().get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    before = _status("VmRSS")
    pipeline = openvino_genai.LLMPipeline(folder, "CPU", **properties)
    options = openvino_genai.GenerationConfig()
    options.max_new_tokens, options.ignore_eos, options.apply_chat_template = _NEW, True, False

    def run(length: int) -> None:
        prompt = np.arange(1, length + 1, dtype=np.int64)[None] % 251 + 1
        pipeline.generate(openvino_genai.TokenizedInputs(ov.Tensor(prompt), ov.Tensor(np.ones_like(prompt))), options)

    run(_SHORT)
    found: dict[str, int | None] = {"loading": _status("VmHWM") - before, "loaded": _status("VmRSS") - before}
    found["running"] = None
    if tokens:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present memory
        run(tokens)
        found["running"] = _status("VmHWM") - before
    print(json.dumps(found), flush=True)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
