"""ONNX Runtime: a graph that our own model was traced into, the cache as inputs (`engines.graph`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3_ref.engines.runners.stepping import Stepping


class Engine(Stepping):
    """The graph is written to `files` first."""

    def __init__(self, source: str, files: str, type: str, context: int, threads: int) -> None:
        import numpy as np
        import onnx
        import onnxruntime

        from qwen3_ref.config import Qwen3Config
        from qwen3_ref.engines.graph import write_onnx

        path = Path(files) / "model.onnx"
        write_onnx(source, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        c = Qwen3Config.from_pretrained(source)
        self.empty = np.zeros((c.num_hidden_layers, 1, c.num_key_value_heads, 0, c.head_dim), np.float32)
        self.array: Any = np.array
        self.versions = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}

    def begin(self) -> None:
        """An empty cache."""
        self.keys = self.values = self.empty

    def step(self, ids: Sequence[int]) -> Any:
        """Logits (V,) behind these ids."""
        given = {"input_ids": self.array([ids], dtype="int64"), "keys": self.keys, "values": self.values}
        logits, self.keys, self.values = self.session.run(None, given)
        return logits[0]
