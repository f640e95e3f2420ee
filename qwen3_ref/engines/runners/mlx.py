"""MLX, through mlx-lm: the folder as it is, on Apple's chips or, as here, on any processor."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from qwen3_ref.engines.runners.stepping import Stepping
from qwen3_ref.engines.runners.texts import Texts


class Engine(Stepping, Texts):
    """Weights are loaded as they are stored and widened."""

    def __init__(self, source: str, files: str, type: str, context: int, threads: int) -> None:
        import mlx.core as mx
        import mlx_lm
        import numpy as np
        from mlx_lm.models.cache import make_prompt_cache

        mx.set_default_device(mx.cpu)
        self.mx, self.numpy, self.make = mx, np, make_prompt_cache
        self.model, self.tokenizer = mlx_lm.load(source)[:2]
        self.model.set_dtype({"f32": mx.float32, "bf16": mx.bfloat16}[type])
        self.versions = {"mlx-lm": version("mlx-lm"), "mlx": version("mlx")}

    def begin(self) -> None:
        """An empty cache."""
        self.cache = self.make(self.model)

    def step(self, ids: Sequence[int]) -> Any:
        """Logits (V,) behind these ids."""
        logits = self.model(self.mx.array([list(ids)]), cache=self.cache)[0, -1]
        return self.numpy.array(logits.astype(self.mx.float32))
