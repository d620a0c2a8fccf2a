"""Process that runs one model as it is deployed and measures its speed and memory on request.

    python -m evaluators._latency_worker MODEL.xml DEVICE PROMPT_TOKENS NEW_TOKENS

It writes ``ready`` when the model is compiled and has run once. Each line of its input then starts one measurement,
answered by a line of JSON: first_token (seconds), tokens_per_second, peak_memory (bytes, of this process).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]


def main(path: str, device: str, prompt_tokens: int, new_tokens: int) -> None:
    """Serve measurements until the input ends."""
    import openvino as ov

    # The defaults of OpenVINO and of the file, for one user at a time.
    compiled = ov.Core().compile_model(path, device, {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    inputs = {name for port in compiled.inputs for name in port.get_names()}
    prompt = np.arange(1, prompt_tokens + 1, dtype=np.int64)[None] % 251 + 1
    _generate(request, inputs, prompt, 2)
    print("ready", flush=True)
    for _ in sys.stdin:
        first, rate = _generate(request, inputs, prompt, new_tokens)
        found = {"first_token": first, "tokens_per_second": rate, "peak_memory": _peak_memory()}
        print(json.dumps(found), flush=True)


def _generate(request: Any, inputs: set[str], prompt: np.ndarray[Any, Any], new_tokens: int) -> tuple[float, float]:
    """Return the seconds to the first token, and the tokens per second after it."""
    request.reset_state()
    times = [time.perf_counter()]
    tokens, length = prompt, 0
    for _ in range(new_tokens):
        positions = np.arange(length, length + tokens.shape[1], dtype=np.int64)[None]
        length += tokens.shape[1]
        values = {
            "input_ids": tokens,
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": positions,
            "cache_position": positions[0],
            "beam_idx": np.zeros(1, np.int32),
        }
        feed = {name: value for name, value in values.items() if name in inputs}
        logits = request.infer(feed, share_inputs=True, share_outputs=True)["logits"]
        tokens = logits[:, -1].argmax(axis=-1)[:, None].astype(np.int64)
        times.append(time.perf_counter())
    return times[1] - times[0], (len(times) - 2) / (times[-1] - times[1])


def _peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
