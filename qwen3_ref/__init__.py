"""qwen3_ref: an executable explanation of Qwen3. See README.md and notebooks/00_tour.ipynb.

The names below are imported when they are first used, so that a part of the package which needs no
torch (the specification, the arithmetic of the family) does not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3_ref.cache import KVCache
    from qwen3_ref.chat import encode_chat, render_chat
    from qwen3_ref.config import ConfigError, Qwen3Config
    from qwen3_ref.decode.generation import generate
    from qwen3_ref.decode.sampling import Sampling
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3
    from qwen3_ref.reply import parse_reply
    from qwen3_ref.store.checkpoint import CheckpointError
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
    "cache": ("KVCache",),
    "chat": ("encode_chat", "render_chat"),
    "config": ("ConfigError", "Qwen3Config"),
    "decode.generation": ("generate",),
    "decode.sampling": ("Sampling",),
    "model": ("Qwen3",),
    "numpy_ref": ("NumpyQwen3",),
    "reply": ("parse_reply",),
    "store.checkpoint": ("CheckpointError",),
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
