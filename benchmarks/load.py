"""Loading, each time in a fresh process: peak memory against the final weights, seconds, time to first token.

    python -m benchmarks.load DIR KIND      one load; prints JSON

KIND is a precision, `plain-float32` or `plain-bfloat16` (as it is trained), `numpy` (float32), or
`transformers-` and a dtype. The file is mapped while it is read, and mapped pages count as resident, so the
peak (VmHWM) holds them too. Nothing is left out but `before`: what the process held when the libraries were
loaded and a model of a few values had been built (the first model makes torch import 33 MB more of itself).
Memory is read on Linux alone (/proc).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.race import ROOT

PROMPT = 32
"""Tokens before the first that is waited for."""


def status(*fields: str) -> list[int]:
    """Bytes of some fields of /proc/self/status; zeros where there is none."""
    file = Path("/proc/self/status")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, flags=re.MULTILINE))
    return [1024 * int(found.get(field, 0)) for field in fields]


def stored(model: Any) -> int:
    """Bytes of a PyTorch model's weights, in whatever form they are kept."""
    import torch

    total, tensors = 0, {}
    for module in model.modules():
        packed = vars(module).get("nbytes")
        if isinstance(packed, int):  # blocks that no one can look into
            total += packed
            continue
        for tensor in [*module._parameters.values(), *vars(module).values()]:
            if isinstance(tensor, torch.Tensor):
                tensors[tensor.data_ptr()] = tensor.nbytes
    return total + sum(tensors.values())


def load(directory: str, kind: str) -> dict[str, Any]:
    """Load in this process and report: seconds, seconds to the first token with the imports, and bytes of
    the model, before, peak and anonymous peak."""
    beginning = time.perf_counter()
    import numpy as np

    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.numpy_ref import NumpyQwen3

    if kind != "numpy":
        import torch

        from qwen3_ref.model import Qwen3

        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        heads = dict(num_attention_heads=1, num_key_value_heads=1, head_dim=2)
        small: dict[str, Any] = dict.fromkeys(sizes, 1) | heads
        Qwen3(Qwen3Config(**small, rope_theta=1e6, tie_word_embeddings=True))
    if kind.startswith("transformers"):
        from transformers import AutoModelForCausalLM
        from transformers.models.qwen3 import modeling_qwen3  # noqa: F401  (or loading would import it)

    anonymous, done = [0], threading.Event()

    def watch() -> None:  # the kernel keeps no high-water mark of anonymous memory
        while not done.wait(0.002):
            anonymous.append(status("RssAnon")[0])

    before, before_anonymous = status("VmRSS", "RssAnon")
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    how, ids = "", [list(range(PROMPT))]
    if kind == "numpy":
        spec = NumpyQwen3.from_pretrained(directory, dtype=np.float32)
        size = sum(array.nbytes for array in spec.weights.values())
    elif kind.startswith("transformers"):
        dtype = getattr(torch, kind.rpartition("-")[2])
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    elif kind.startswith("plain"):
        model = Qwen3.from_pretrained(directory, dtype=getattr(torch, kind.rpartition("-")[2]))
    else:
        asked: Any = kind
        model = Qwen3.from_pretrained(directory, precision=asked)
        how = f"chose {model.choice.precision}" if kind == "auto" and model.choice else ""
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    peak = status("VmHWM")[0]
    if kind != "numpy":
        size = stored(model)
        with torch.inference_mode():
            model(torch.tensor(ids), logits_to_keep=1)
    first = time.perf_counter() - beginning
    return {
        "seconds": seconds,
        "first_token_seconds": first,
        "model_bytes": size,
        "before_bytes": before,
        "peak_bytes": peak,
        "ratio": (peak - before) / size,
        "anonymous_ratio": (max(anonymous) - before_anonymous) / size,
        "how": how,
    }


def in_child(directory: str | Path, kind: str) -> dict[str, Any]:
    """`load` in a fresh process. Raises RuntimeError with what it said last."""
    command = [sys.executable, "-m", "benchmarks.load", str(directory), kind]
    output = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT, check=False)
    if output.returncode:
        raise RuntimeError((output.stderr.strip().splitlines() or ["no output"])[-1][:200])
    report: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    return report


def many(directory: Path, kinds: list[str], runs: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each kind's loads, taking turns: medians, and the spread of the seconds."""
    found: dict[str, list[dict[str, Any]]] = {}
    missing = {}
    for turn in range(runs):
        for kind in kinds if turn % 2 else reversed(kinds):
            if kind in missing:
                continue
            try:
                found.setdefault(kind, []).append(in_child(directory, kind))
            except RuntimeError as error:
                missing[kind] = str(error)
    rows = []
    for kind in kinds:
        if kind not in missing:
            reports = found[kind]
            numbers = [k for k, v in reports[0].items() if not isinstance(v, str)]
            row: dict[str, Any] = {k: median(r[k] for r in reports) for k in numbers}
            seconds = [r["first_token_seconds"] for r in reports]
            rows.append({"kind": kind, **row, "how": reports[0]["how"], "all_first_token_seconds": seconds})
    return rows, missing


if __name__ == "__main__":
    print(json.dumps(load(*sys.argv[1:])))
