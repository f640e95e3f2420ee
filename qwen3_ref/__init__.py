"""qwen3_ref: an executable explanation of Qwen3. See README.md and notebooks/00_tour.ipynb.

The names below are imported when they are first used, so that a part of the package which needs no
torch (the specification, the arithmetic of the family) does not load it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3_ref.chat import encode_chat, parse_reply, render_chat
    from qwen3_ref.checkpoint import CheckpointError
    from qwen3_ref.config import ConfigError, Qwen3Config
    from qwen3_ref.generate import Sampling, generate
    from qwen3_ref.model import KVCache, Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3
    from qwen3_ref.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ConfigError",
    "KVCache",
    "NumpyQwen3",
    "Qwen3",
    "Qwen3Config",
    "Sampling",
    "Tokenizer",
    "encode_chat",
    "generate",
    "parse_reply",
    "render_chat",
]
_HOMES = {
    "chat": ("encode_chat", "parse_reply", "render_chat"),
    "checkpoint": ("CheckpointError",),
    "config": ("ConfigError", "Qwen3Config"),
    "generate": ("Sampling", "generate"),
    "model": ("KVCache", "Qwen3"),
    "numpy_ref": ("NumpyQwen3",),
    "tokenizer": ("Tokenizer",),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Python puts an imported submodule into its package under its own name, which would make
    `from qwen3_ref import generate` a module or a function depending on what was imported before."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "generate" and isinstance(value, ModuleType):
            value = value.generate
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
