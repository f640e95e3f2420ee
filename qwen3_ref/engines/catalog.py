"""The engines: what each needs to be installed, what it takes, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3_ref.store.errors import meant


@dataclass(frozen=True)
class Engine:
    """`needs`: what pip installs for it. `module`: what can be imported then. `runner`: its file in
    `runners`, which makes what the engine loads. `size`: on disk, about, in MB.
    `types`: of weights that it can be asked for; in the first, float32, ids must be equal.
    `moe`: whether it takes experts. `normalizes`: whether its tokenizer brings texts to NFC first, as the
    official tokenizer.json says. `light`: one of `make test-engines`.
    `above`: its environment is laid above this interpreter's packages, PyTorch and transformers among
    them, and holds only what is missing there; else it stands alone."""

    name: str
    needs: tuple[str, ...]
    module: str
    runner: str
    size: int
    types: tuple[str, ...] = ("f32",)
    moe: bool = True
    normalizes: bool = True
    light: bool = False
    above: bool = True


CATALOG = (
    Engine("transformers", ("transformers>=5,<6",), "transformers", "hf", 100, ("f32", "bf16"), light=True),
    Engine("llama.cpp", ("xllamacpp>=2026.1", "gguf>=0.19"), "xllamacpp", "llama", 110,
           ("f32", "f16", "bf16", "q8_0", "q4_0"), normalizes=False, light=True),
    Engine("onnxruntime", ("onnxruntime>=1.20", "onnx", "onnxscript"), "onnxruntime", "ort", 130, light=True),
    Engine("ctranslate2", ("ctranslate2>=4.6", "transformers>=5,<6"), "ctranslate2", "ct2", 150,
           ("f32", "int8"), moe=False, light=True),
    Engine("openvino", ("openvino>=2025", "onnx", "onnxscript"), "openvino", "ov", 230),
    Engine("mlx", ("mlx[cpu]", "mlx-lm"), "mlx_lm", "mlx", 60, ("f32", "bf16")),
)  # fmt: skip
NAMES = tuple(engine.name for engine in CATALOG)
LIGHT = tuple(engine.name for engine in CATALOG if engine.light)


def engine_of(name: str) -> Engine:
    """An engine by its name. Raises ValueError, with what may have been meant, for any other."""
    if name not in NAMES:
        raise ValueError(f"there is no engine {name!r}; {meant(name, NAMES)}.")
    return CATALOG[NAMES.index(name)]
