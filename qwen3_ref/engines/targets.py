"""The engines that a checkpoint can be exported to, in one table, which loads none of them."""

from __future__ import annotations

from dataclasses import dataclass

PLAIN = ("bf16", "f16", "f32")
BLOCKS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""What `gguf.quants` rounds to in blocks of 32, but for ternary types, which no Qwen3 survives."""


@dataclass(frozen=True)
class Engine:
    """A row. `types`: of weights, as `--type` spells them; the checkpoint's own is the default if it is among
    them, else the first. `write`: "module:function" of this room, called with (source, folder, type, out):
    it writes the files into `folder`, which will be `out` at the end, and returns the command that runs them
    there. `package`: what it imports beyond ours."""

    name: str
    types: tuple[str, ...]
    write: str
    package: str | None = None


ENGINES: dict[str, Engine] = {
    "gguf": Engine("llama.cpp", (*PLAIN, *BLOCKS), "llama:llama_cpp", "gguf"),
    "ollama": Engine("Ollama", (*PLAIN, *BLOCKS), "llama:ollama", "gguf"),
    "hf": Engine("transformers", PLAIN, "folder:hf"),
    "mlx": Engine("MLX-LM", PLAIN, "folder:mlx"),
    "vllm": Engine("vLLM", PLAIN, "folder:vllm"),
    "ct2": Engine("CTranslate2", (*PLAIN, "int8"), "folder:ct2", "ctranslate2"),
}
"""By what `--to` takes."""
