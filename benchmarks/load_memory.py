"""Peak memory and time of loading a checkpoint, in a process of its own. Linux only (/proc).

    python benchmarks/load_memory.py                     a seeded model of true Qwen3-0.6B shape
    python benchmarks/load_memory.py --load DIR KIND     one load; prints JSON

KIND is bfloat16 or float32 (PyTorch), or numpy (float32). The file is mapped while it is read, and
mapped pages count as resident, so the peak (VmHWM) holds them too. Nothing is left out but `before`:
what the process held when the libraries were loaded and a model of a few values had been built (the
first model makes torch import 33 MB more of itself).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

KINDS = ("bfloat16", "float32", "numpy")


def status(*fields: str) -> list[int]:
    """Bytes of some fields of /proc/self/status."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, flags=re.MULTILINE))
    return [1024 * int(found[field]) for field in fields]


def load(directory: str, kind: str) -> dict[str, float]:
    """Load in this process and report: seconds, and bytes of the model, before, peak and anonymous peak."""
    import numpy as np
    import torch

    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3

    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = dict(num_attention_heads=1, num_key_value_heads=1, head_dim=2)
    Qwen3(Qwen3Config(**dict.fromkeys(sizes, 1), **heads, rope_theta=1e6, tie_word_embeddings=True))
    anonymous, done = [0], threading.Event()

    def watch() -> None:  # the kernel keeps no high-water mark of anonymous memory
        while not done.wait(0.002):
            anonymous.append(status("RssAnon")[0])

    before, before_anonymous = status("VmRSS", "RssAnon")
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    if kind == "numpy":
        spec = NumpyQwen3.from_pretrained(directory, dtype=np.float32)
        size = sum(array.nbytes for array in spec.weights.values())
    else:
        model = Qwen3.from_pretrained(directory, dtype=getattr(torch, kind))
        size = sum(p.numel() * p.element_size() for p in model.parameters())
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    peak = status("VmHWM")[0]
    return {
        "seconds": seconds,
        "model_bytes": size,
        "before_bytes": before,
        "peak_bytes": peak,
        "ratio": (peak - before) / size,
        "anonymous_ratio": (max(anonymous) - before_anonymous) / size,
    }


def in_child(directory: str | Path, kind: str) -> dict[str, float]:
    """`load` in a fresh process."""
    command = [sys.executable, __file__, "--load", str(directory), kind]
    output = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    report: dict[str, float] = json.loads(output.stdout)
    return report


def main() -> None:
    """Measure every kind of load and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--load", nargs=2, metavar=("DIR", "KIND"))
    arguments = options.parse_args()
    if arguments.load:
        print(json.dumps(load(*arguments.load)))
        return
    import torch

    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.model import Qwen3

    with tempfile.TemporaryDirectory() as directory:
        Qwen3(Qwen3Config.named("Qwen3-0.6B"), dtype=torch.bfloat16).save_pretrained(directory)
        print("target      model GB  before GB  peak GB  (peak - before) / model  anonymous / model  seconds")
        for kind in KINDS:
            r = in_child(directory, kind)
            print(
                f"{kind:<10} {r['model_bytes'] / 1e9:9.3f} {r['before_bytes'] / 1e9:10.3f} "
                f"{r['peak_bytes'] / 1e9:8.3f} {r['ratio']:24.3f} {r['anonymous_ratio']:18.3f} "
                f"{r['seconds']:8.1f}"
            )


if __name__ == "__main__":
    main()
