"""Talk to a model. Ctrl-C stops a reply."""

from __future__ import annotations

import argparse
import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console
from rich.text import Text

from qwen3_ref.chat import Template
from qwen3_ref.commands.common import NAME_OR_DIR, Misuse, at_least, checkpoint_directory
from qwen3_ref.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from qwen3_ref.decode.dialogue import Dialogue


def _show(dialogue: Dialogue, text: str | None, out: Console) -> None:
    """Stream one reply, to a text or (None) to the last one again: thoughts dimmed where the terminal can,
    else between their marks."""
    profile, control = dialogue.profile, dialogue.tokenizer.control_tokens
    begin, end = control.get(profile.opening), control.get(profile.closing)
    decoder = StreamDecoder(dialogue.tokenizer)
    dims = out.is_terminal and out.color_system is not None and not out.no_color
    style = ""

    def write(piece: str) -> None:
        # No control characters: what a model says must not steer the terminal.
        clean = "".join(c for c in piece if c in "\n\t" or unicodedata.category(c) != "Cc")
        out.print(Text(clean, style=style), end="", soft_wrap=True)

    if profile.template == "qwen3-thinking-2507":  # its prompt has opened the block already
        style = "dim" if dims else ""
        if not dims:
            write(f"{profile.opening}\n")
    try:
        # Closed at once, so that a reply cut short by Ctrl-C is in the history before the next message.
        with contextlib.closing(dialogue.retry() if text is None else dialogue.ask(text)) as reply:
            for token in reply:
                if token == begin and dims:
                    style = "dim"
                if token in profile.stop_ids:
                    continue
                if token not in (begin, end) or not dims:
                    write(decoder.feed(token))
                if token == end:
                    style = ""
        write(decoder.finish())
    finally:
        out.print()


def command(args: argparse.Namespace, out: Console) -> int:
    """Read messages, from the terminal or a line each from a pipe, and stream the replies."""
    if sys.stdin is None:
        raise Misuse("standard input is closed, so nothing can be said; use a terminal or a pipe.")
    directory = checkpoint_directory(args.model)
    tokenizer = Tokenizer.from_pretrained(directory)
    import torch

    from qwen3_ref.commands import slash
    from qwen3_ref.decode.dialogue import Dialogue
    from qwen3_ref.decode.profile import Profile
    from qwen3_ref.model import Qwen3

    profile = Profile.from_pretrained(directory, tokenizer, template=args.template)
    if (t := args.temperature) is not None:
        profile = replace(
            profile,
            thinking=replace(profile.thinking, temperature=t),
            non_thinking=replace(profile.non_thinking, temperature=t),
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision: Any = args.precision or ("bfloat16" if device == "cuda" else "float32")
    model = Qwen3.from_pretrained(directory, device=device, precision=precision)
    dialogue = Dialogue(
        model,
        tokenizer,
        profile,
        torch.Generator().manual_seed(args.seed),
        enable_thinking=not args.no_think,
        max_new_tokens=args.max_new_tokens,
        thinking_budget=args.thinking_budget,
    )
    interactive = sys.stdin.isatty()
    errors = Console(stderr=True)
    warning = "A Base model goes on with text; it was not trained on the marks of a chat."
    for note in [*([warning] if profile.base else []), *profile.guesses]:
        errors.print(Text(note, style="dim"), soft_wrap=True)
    if interactive:
        how = str(model.choice) if precision == "auto" else f"{precision}"
        hello = f"{args.model} on {device} in {how}. /help lists commands, /exit or Ctrl-D leaves."
        errors.print(Text(hello, style="dim"), soft_wrap=True)
    known = set(slash.COMMANDS) if interactive else {"/new", "/exit"}  # a pipe's lines are messages
    for line in _lines(interactive):
        said: str | None = line
        try:
            if line in known or (interactive and slash.is_command(line)):
                try:
                    done = slash.run(dialogue, line)
                    if interactive:
                        errors.print(Text(done, style="dim"), soft_wrap=True)
                    continue
                except slash.Again:
                    said = None
            _show(dialogue, said, out)
            if interactive:
                errors.print(Text(f"{dialogue.last}", style="dim"), soft_wrap=True)
        except slash.Leave:
            break
        except (ValueError, OSError) as error:
            if not interactive:
                raise
            errors.print(Text(str(error)), style="red")
        except KeyboardInterrupt:
            if not interactive:
                raise
    return 0


def _lines(interactive: bool) -> Iterator[str]:
    """What the user says, without blank messages, until the input ends. In a terminal a line that ends in a
    backslash goes on, and lines of three quotes enclose several; a pipe has a message a line."""
    if interactive:
        try:
            import readline  # noqa: F401  (gives input() its history and editing; absent on Windows)
        except ImportError:
            pass
    parts: list[str] = []
    quoting = False
    while True:
        try:
            line = input(". " if parts or quoting else "> ") if interactive else sys.stdin.readline()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # of the message that is being written
            if not parts and not quoting:
                raise
            print()
            parts, quoting = [], False
            continue
        if not interactive and not line:
            return
        if interactive and line.strip() == '"""':
            quoting = not quoting
        elif quoting:
            parts.append(line)
        elif interactive and line.endswith("\\"):
            parts.append(line[:-1])
            continue
        else:
            parts.append(line)
        if not quoting:
            message, parts = "\n".join(parts).strip(), []
            if message:
                yield message


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
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "float16", "bfloat16", "int8", "int4"],
        help="of the weights; auto tries which is fastest here and says what float32 says (default: float32 "
        "on a CPU, bfloat16 on a GPU)",
    )
    parser.add_argument("--template", choices=get_args(Template), help="(default: as the checkpoint says)")
