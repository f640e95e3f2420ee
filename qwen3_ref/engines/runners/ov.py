"""OpenVINO, which reads the same graph that ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3_ref.engines.runners.stepping import Stepping


class Engine(Stepping):
    """Every hint says float32: the processor's own choice may be bfloat16."""

    def __init__(self, source: str, files: str, type: str, context: int, threads: int) -> None:
        import numpy as np
        import openvino

        from qwen3_ref.config import Qwen3Config
        from qwen3_ref.engines.graph import write_onnx

        path = Path(files) / "model.onnx"
        write_onnx(source, path)
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        core = openvino.Core()
        self.compiled = core.compile_model(core.read_model(str(path)), "CPU", hints)
        c = Qwen3Config.from_pretrained(source)
        self.empty = np.zeros((c.num_hidden_layers, 1, c.num_key_value_heads, 0, c.head_dim), np.float32)
        self.array: Any = np.array
        self.versions = {"openvino": openvino.__version__.partition("-")[0]}

    def begin(self) -> None:
        """An empty cache."""
        self.keys = self.values = self.empty

    def step(self, ids: Sequence[int]) -> Any:
        """Logits (V,) behind these ids."""
        given = {"input_ids": self.array([ids], dtype="int64"), "keys": self.keys, "values": self.values}
        found = self.compiled(given)
        logits, self.keys, self.values = (found[i].copy() for i in range(3))
        return logits[0]
