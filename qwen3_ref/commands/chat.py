"""Talk to a model. Ctrl-C stops a reply."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console
from rich.text import Text

from qwen3_ref.chat import Template
from qwen3_ref.commands.common import NAME_OR_DIR, Misuse, at_least, official, unit
from qwen3_ref.official.snapshots import download_bytes, find_official
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.shipped import local_directory
from qwen3_ref.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from qwen3_ref.decode.dialogue import Dialogue


def _show(dialogue: Dialogue, text: str, out: Console) -> None:
    """Stream one reply: thoughts dimmed in a terminal, between their marks in a pipe."""
    control = dialogue.tokenizer.control_tokens
    begin, end = control.get("<think>"), control.get("</think>")
    decoder = StreamDecoder(dialogue.tokenizer)
    # The 2507 Thinking template has opened the block already.
    style = "dim" if dialogue.template == "qwen3-thinking-2507" else ""

    def write(piece: str) -> None:
        # No control characters: what a model says must not steer the terminal.
        clean = "".join(c for c in piece if c in "\n\t" or unicodedata.category(c) != "Cc")
        out.print(Text(clean, style=style), end="", soft_wrap=True)

    try:
        # Closed at once, so that a reply cut short by Ctrl-C is in the history before the next message.
        with contextlib.closing(dialogue.ask(text)) as reply:
            for token in reply:
                if token == begin:
                    style = "dim"
                if token in dialogue.stop_ids:
                    continue
                if token not in (begin, end) or not out.is_terminal:
                    write(decoder.feed(token))
                if token == end:
                    style = ""
        write(decoder.finish())
    finally:
        out.print()


def _own_name(model: str) -> str:
    """The last part of a name or path; of a snapshot in the hub cache, its repository's."""
    path = Path(model).absolute()
    return path.parents[1].name if path.parent.name == "snapshots" else path.name


def _template(model: str) -> Template:
    """The chat template of a checkpoint, by its own name."""
    name = _own_name(model).lower()
    if "coder" in name:
        return "qwen3-coder"
    for kind in ("instruct", "thinking"):
        if f"{kind}-2507" in name:
            return "qwen3-instruct-2507" if kind == "instruct" else "qwen3-thinking-2507"
    return "qwen3"


def command(args: argparse.Namespace, out: Console) -> int:
    """Read messages, from the terminal or a line each from a pipe, and stream the replies."""
    if sys.stdin is None:
        raise Misuse("standard input is closed, so nothing can be said; use a terminal or a pipe.")
    directory = local_directory(args.model)
    if directory is None:
        name = official(args.model)
        found = find_official(name)
        if found is None:
            raise CheckpointError(
                f"{name} is not on this machine; `python -m qwen3_ref fetch {name}` downloads it "
                f"({unit(download_bytes(name), 'B')})."
            )
        directory = found
    template = args.template or _template(args.model)
    tokenizer = Tokenizer.from_pretrained(directory)
    import torch

    from qwen3_ref.decode.budget import early_stop_for
    from qwen3_ref.decode.dialogue import Dialogue
    from qwen3_ref.decode.sampling import Sampling
    from qwen3_ref.model import Qwen3

    thinks = not args.no_think and template in ("qwen3", "qwen3-thinking-2507")
    sampling = Sampling.thinking() if thinks else Sampling.non_thinking()
    sampling = Sampling.coder() if template == "qwen3-coder" else sampling
    if args.temperature is not None:
        sampling = dataclasses.replace(sampling, temperature=args.temperature)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = args.dtype or ("bfloat16" if device == "cuda" else "float32")
    model = Qwen3.from_pretrained(directory, dtype=getattr(torch, dtype), device=device)
    dialogue = Dialogue(
        model,
        tokenizer,
        sampling,
        torch.Generator().manual_seed(args.seed),
        template=template,
        enable_thinking=not args.no_think,
        max_new_tokens=args.max_new_tokens,
        thinking_budget=args.thinking_budget,
        early_stop=early_stop_for(model),
    )
    interactive = sys.stdin.isatty()
    errors = Console(stderr=True)
    if _own_name(args.model).lower().endswith("-base"):
        warning = "A Base model goes on with text; it was not trained on the marks of a chat."
        errors.print(Text(warning, style="dim"), soft_wrap=True)
    if interactive:
        hello = f"{args.model} in {dtype} on {device}. /new starts over, /exit or Ctrl-D leaves."
        errors.print(Text(hello, style="dim"), soft_wrap=True)
    for line in _lines(interactive):
        if line == "/exit":
            break
        if line == "/new":
            dialogue.messages.clear()
            continue
        try:
            _show(dialogue, line, out)
        except ValueError as error:
            if not interactive:
                raise
            errors.print(Text(str(error)), style="red")
        except KeyboardInterrupt:
            if not interactive:
                raise
    return 0


def _lines(interactive: bool) -> Iterator[str]:
    """What the user says, without blank lines, until the input ends."""
    if interactive:
        try:
            import readline  # noqa: F401  (gives input() its history and editing; absent on Windows)
        except ImportError:
            pass
    while True:
        try:
            line = input("> ") if interactive else sys.stdin.readline()
        except EOFError:
            print()
            return
        if not interactive and not line:
            return
        if line.strip():
            yield line.strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `chat`."""
    parser.add_argument("model", metavar="NAME_OR_DIR", help=NAME_OR_DIR)
    parser.add_argument("--no-think", action="store_true", help="answer at once, without thinking")
    parser.add_argument(
        "--temperature", type=at_least(0.0), help="0 is greedy (default: the official setting)"
    )
    parser.add_argument("--seed", type=at_least(0, 2**63), default=0, help="of the sampler (default: 0)")
    parser.add_argument(
        "--max-new-tokens", type=at_least(1), default=4096, help="of one reply (default: 4096)"
    )
    parser.add_argument("--thinking-budget", type=at_least(0), help="cut thoughts after so many tokens")
    kinds = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", choices=kinds, help="(default: float32 on a CPU, bfloat16 on a GPU)")
    parser.add_argument("--template", choices=get_args(Template), help="(default: by the name)")
