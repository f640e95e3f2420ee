"""Write a checkpoint as another engine loads it: its format, its settings, and the command that runs it.

  gguf    llama.cpp: one file; --type q8_0 is half of bf16, q4_0 a quarter
  ollama  the same, with a Modelfile
  hf      the official layout: transformers, SGLang; also of a GGUF file, the way back
  mlx     MLX-LM
  vllm    vLLM
  ct2     CTranslate2, by its own converter
"""

from __future__ import annotations

import argparse
import os

from rich.console import Console
from rich.text import Text

from qwen3_ref.commands.common import NAME_OR_DIR, Misuse, checkpoint_directory, unit
from qwen3_ref.engines.targets import ENGINES
from qwen3_ref.store.errors import meant
from qwen3_ref.store.gguf import open_gguf


def command(args: argparse.Namespace, out: Console) -> int:
    """Write, then say what is where."""
    if args.to not in ENGINES:
        raise Misuse(f"--to is {args.to!r}; {meant(args.to, tuple(ENGINES))}.")
    if args.type is not None and args.type not in ENGINES[args.to].types:
        raise Misuse(f"--type is {args.type!r}; {args.to} takes {', '.join(ENGINES[args.to].types)}.")
    if os.path.isfile(args.model):
        place = open_gguf(args.model).path
    else:
        place = checkpoint_directory(args.model)
    from qwen3_ref.engines.export import export

    target = export(place, args.to, args.out, args.type)
    for path in sorted(target.iterdir()):
        if path.is_file():
            out.print(Text(f"{unit(path.stat().st_size, 'B'):>8}  {path}"), soft_wrap=True)
    out.print(Text((target / "README").read_text(encoding="utf-8").splitlines()[1]), soft_wrap=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    parser.add_argument("model", metavar="NAME_OR_DIR", help=f"{NAME_OR_DIR}, or a GGUF file")
    parser.add_argument("--to", required=True, metavar="ENGINE", help="one of those above")
    parser.add_argument("--type", help="of the weights, such as f32, bf16, q8_0; what the checkpoint has")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
