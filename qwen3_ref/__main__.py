"""The command line: `python -m qwen3_ref info | fetch | verify | chat`.

Exit codes: 0 done, 1 failed, 2 misused (an unknown name or option), 130 interrupted. Errors are one
sentence on stderr. torch is imported only by the commands that run a model.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen3_ref import facts
from qwen3_ref.chat import Template
from qwen3_ref.checkpoint import CheckpointError
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.tokenizer import StreamDecoder, Tokenizer
from qwen3_ref.weights import (
    NANO,
    download_bytes,
    fetch,
    find_official,
    local_directory,
    official_name,
    verify,
)

if TYPE_CHECKING:
    from qwen3_ref.dialogue import Dialogue

HELP = """\
Qwen3, explained by running it. Commands (each has its own --help):

  info                 the family of official checkpoints, in one table
  info NAME_OR_DIR     one model: shapes, parameters, memory, work per token
  fetch NAME           download an official checkpoint into the hub cache
  verify NAME_OR_DIR   check a checkpoint against the published numbers
  chat NAME_OR_DIR     talk to a model in the terminal
  train nano           train a nano model from nothing, stage by stage (minutes each)
  evaluate MODEL       accuracy of a nano model by thinking budget, on test problems
  measure ROW          what each training stage changed, for the measured table

NAME is such as Qwen3-0.6B; it is looked for in $QWEN3_WEIGHTS, then in the hub cache. The nano
family comes with the package: qwen3-nano, qwen3-nano-base, qwen3-nano-moe, qwen3-nano-student.
"""
Number = TypeVar("Number", int, float)
_LENGTHS = (4_096, 32_768, 131_072)
_MODULES = {"evaluate": "qwen3_ref.evaluate", "measure": "qwen3_ref.train.measure"}


class Misuse(Exception):
    """The command line asks for something that does not exist."""


# -- info -----------------------------------------------------------------------------------------


def _short(number: float) -> str:
    """596M, 8.19B, 235B: parameters as people say them."""
    return f"{number / 1e9:.3g}B" if number >= 1e9 else f"{number / 1e6:.3g}M"


def _unit(number: float, unit: str) -> str:
    """Three digits and a unit: 4.83 GB, 604 MB. G is 10^9."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            digits = 2 if number < 10 * size else 1 if number < 100 * size else 0
            return f"{number / size:.{digits}f} {letter}{unit}"
    return f"{number:.0f} {unit}"


def family_table() -> Table:
    """Every official open-weight checkpoint, a line each."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))  # fits 80 columns
    table.add_column("checkpoint", no_wrap=True)
    for heading in ("total", "active", "layers", "experts", "context", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in facts.official_models().items():
        if model["config"] is None:
            continue
        c = Qwen3Config.named(name)
        table.add_row(
            name + ("" if model["config_status"] == "verified" else " *"),
            _short(c.num_parameters()),
            _short(c.num_active_parameters()) if c.is_moe else "",
            str(c.num_hidden_layers),
            f"{c.num_experts}/{c.num_experts_per_tok}" if c.is_moe else "",
            f"{c.max_position_embeddings:,}",
            _unit(c.weight_bytes(), "B"),
        )
    return table


def model_table(config: Qwen3Config) -> Table:
    """One model: shapes, parameters, memory and work, in sections."""
    c = config
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    heads = f"{c.num_attention_heads} query, {c.num_key_value_heads} KV heads of {c.head_dim}"
    rows: list[tuple[str, str, str]] = [
        ("Shape", "layers", f"{c.num_hidden_layers}"),
        ("", "hidden size", f"{c.hidden_size:,}"),
        ("", "attention", f"{heads}, QK-Norm"),
    ]
    if c.is_moe:
        experts = f"{c.num_experts}, {c.num_experts_per_tok} for each token, {c.moe_intermediate_size} wide"
        rows.append(("", "experts", experts))
    if not all(map(c.is_sparse_layer, range(c.num_hidden_layers))):
        rows.append(("", "feed-forward size", f"{c.intermediate_size:,}"))
    head = "shared with the output" if c.tie_word_embeddings else "output head of its own"
    rows += [
        ("", "vocabulary", f"{c.vocab_size:,} rows, {head}"),
        ("", "context", f"{c.max_position_embeddings:,} tokens, rope_theta {c.rope_theta:,.0f}"),
    ]
    if c.rope_scaling is not None:
        rows.append(("", "rope_scaling", ", ".join(f"{k} {v}" for k, v in c.rope_scaling.items())))
    rows += [
        ("Parameters", "total", f"{c.num_parameters():,}"),
        ("", "active for a token", f"{c.num_active_parameters():,}"),
        ("", "non-embedding", f"{c.num_non_embedding_parameters():,}"),
        ("Memory", "weights in bf16", f"{_unit(c.weight_bytes(), 'B')} ({c.weight_bytes():,} bytes)"),
    ]
    for length in _LENGTHS:
        beyond = " (beyond the context)" if length > c.max_position_embeddings else ""
        size = _unit(c.kv_cache_bytes(length), "B")
        rows.append(("", f"KV cache, {length // 1024}K tokens", f"{size} in bf16{beyond}"))
    for length, when in ((0, "the first of a text"), (32_768, "after 32K tokens")):
        flops = _unit(c.flops_per_token(length), "FLOP")
        rows.append(("" if length else "Work", "" if length else "to process a token", f"{flops}, {when}"))
    for row in rows:
        if row[0]:
            table.add_section()
        table.add_row(*row)
    return table


def info(args: argparse.Namespace, out: Console) -> int:
    """The table of the family, or of one model."""
    if args.model is None:
        out.print(family_table())
        out.print("total, active: parameters; experts: all / used by a token; bytes: bf16.")
        out.print("* config seen in copies only, not proved against the official file.")
        return 0
    directory = local_directory(args.model)
    if directory:
        config, title = Qwen3Config.from_pretrained(directory), args.model
        source = f"{directory / 'config.json'}, as found"
    else:
        title = _official(args.model)
        config, model = Qwen3Config.named(title), facts.official_models()[title]
        proof = (model.get("config_proof") or {}).get("sha256")
        source = f"official config of {model['repo']}, {model['config_status']}"
        source += f" (sha256 {proof[:12]}...)" if proof else ""
        found = find_official(title)
        title += f": {model['kind']}, {model['released']}"
        source += f"\nOn disk: {found or 'no'}"
    out.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
    out.print(model_table(config))
    out.print(Text(f"Source: {source}"), soft_wrap=True)
    return 0


# -- fetch and verify -----------------------------------------------------------------------------


def _official(name: str) -> str:
    """The short official name. Raises Misuse for anything else."""
    try:
        return official_name(name)
    except ConfigError as error:
        if os.sep in name.removeprefix("Qwen/"):
            raise Misuse(f"there is no directory {name}; give a checkpoint's, or an official name.") from None
        raise Misuse(str(error)) from None


def fetch_command(args: argparse.Namespace, out: Console) -> int:
    """Download, and say where it is."""
    if args.name in NANO:
        raise Misuse(f"{args.name} comes with the package, so there is nothing to fetch; use it by its name.")
    if local_directory(args.name) or os.sep in args.name.removeprefix("Qwen/"):
        raise Misuse(f"{args.name} is a path, and fetch needs an official name such as Qwen3-0.6B.")
    out.print(Text(str(fetch(_official(args.name)))), soft_wrap=True)
    return 0


def verify_command(args: argparse.Namespace, out: Console) -> int:
    """Print each finding as it comes. 0 only if something was checked and nothing failed."""
    directory = local_directory(args.model)
    if directory is None:
        _official(args.model)
    styles = {"passed": "green", "failed": "bold red", "not checked": "yellow"}
    counts = dict.fromkeys(styles, 0)
    for finding in verify(directory or args.model):
        counts[finding.status] += 1
        cells = Text(f"{finding.status:<12}", styles[finding.status]), Text(f"{finding.what:<42} ")
        detail = Text(finding.detail)
        if out.is_terminal:
            row = Table.grid(padding=(0, 1))
            row.add_column(width=12)
            row.add_column(width=32)
            row.add_row(*cells, detail)
            out.print(row)
        else:
            out.print(Text.assemble(*cells, detail), soft_wrap=True)
    out.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 0 if counts["passed"] and not counts["failed"] else 1


# -- chat -----------------------------------------------------------------------------------------


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


def chat(args: argparse.Namespace, out: Console) -> int:
    """Read messages, from the terminal or a line each from a pipe, and stream the replies."""
    if sys.stdin is None:
        raise Misuse("standard input is closed, so nothing can be said; use a terminal or a pipe.")
    directory = local_directory(args.model)
    if directory is None:
        name = _official(args.model)
        found = find_official(name)
        if found is None:
            raise CheckpointError(
                f"{name} is not on this machine; `python -m qwen3_ref fetch {name}` downloads it "
                f"({_unit(download_bytes(name), 'B')})."
            )
        directory = found
    template = args.template or _template(args.model)
    tokenizer = Tokenizer.from_pretrained(directory)
    import torch

    from qwen3_ref.dialogue import Dialogue
    from qwen3_ref.generate import Sampling, early_stop_for
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


# -- the command line -----------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        print(f"error: {message}; see `{self.prog} --help`.", file=sys.stderr)
        sys.exit(2)


def _at_least(least: Number, end: float = float("inf")) -> Callable[[str], Number]:
    """A type of argument: numbers of the kind of `least`, from it on and below `end`."""

    def convert(text: str) -> Number:
        number = type(least)(text)
        if not least <= number < end:
            below = "" if end == float("inf") else f" and below {end}"
            raise argparse.ArgumentTypeError(f"{text} is not {least} or more{below}")
        return number

    convert.__name__ = type(least).__name__  # which argparse puts into its message
    return convert


def parser() -> Parser:
    """The commands and their options."""
    top = Parser(
        prog="python -m qwen3_ref",
        usage="python -m qwen3_ref COMMAND ...",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    commands = top.add_subparsers(
        required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog="python -m qwen3_ref"
    )
    which = "a name such as Qwen3-0.6B or qwen3-nano, or the directory of a checkpoint"

    one = commands.add_parser("info", description="Shapes, parameters, memory and work of a model.")
    one.add_argument("model", nargs="?", metavar="NAME_OR_DIR", help=f"{which}; absent: the whole family")
    one.set_defaults(run=info)

    one = commands.add_parser("fetch", description="Download an official checkpoint; prints where it is.")
    one.add_argument("name", metavar="NAME", help="an official name such as Qwen3-0.6B")
    one.set_defaults(run=fetch_command)

    one = commands.add_parser("verify", description="Check a checkpoint against the published numbers.")
    one.add_argument("model", metavar="NAME_OR_DIR", help=which)
    one.set_defaults(run=verify_command)

    one = commands.add_parser("chat", description="Talk to a model. Ctrl-C stops a reply.")
    one.add_argument("model", metavar="NAME_OR_DIR", help=which)
    one.add_argument("--no-think", action="store_true", help="answer at once, without thinking")
    one.add_argument("--temperature", type=_at_least(0.0), help="0 is greedy (default: the official setting)")
    one.add_argument("--seed", type=_at_least(0, 2**63), default=0, help="of the sampler (default: 0)")
    one.add_argument(
        "--max-new-tokens", type=_at_least(1), default=4096, help="of one reply (default: 4096)"
    )
    one.add_argument("--thinking-budget", type=_at_least(0), help="cut thoughts after so many tokens")
    kinds = ["float32", "bfloat16", "float16"]
    one.add_argument("--dtype", choices=kinds, help="(default: float32 on a CPU, bfloat16 on a GPU)")
    one.add_argument("--template", choices=get_args(Template), help="(default: by the name)")
    one.set_defaults(run=chat)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if sys.stdout is None:
            raise Misuse("standard output is closed, so nothing can be shown; leave it open.")
        if words and words[0] == "train":  # it has options of its own, and torch to import
            from qwen3_ref.train import main as train

            return train(words[1:])
        if words and words[0] in _MODULES:  # with torch to import, too
            module = importlib.import_module(_MODULES[words[0]])
            own = Parser(prog=f"python -m qwen3_ref {words[0]}", description=module.__doc__)
            own.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(own)
            return int(module.command(own.parse_args(words[1:])))
        args = parser().parse_args(words)
        code: int = args.run(args, Console(highlight=False))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `info | head`: nobody reads on. (rich exits with 1 itself in this case.)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        message = str(error)
        if error.errno is not None and error.filename is not None:
            message = f"{error.filename} cannot be used ({error.strerror}); check its kind and permissions."
        elif error.errno is not None:
            message = f"the output cannot be written ({error.strerror}); make room, or send it elsewhere."
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or leaving would try again
        print(f"error: {message}", file=sys.stderr)
        return 1
    except (Misuse, CheckpointError, ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, Misuse) else 1


if __name__ == "__main__":
    sys.exit(main())
