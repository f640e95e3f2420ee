"""One checkpoint in every engine: are the greedy ids, the tokens and the prompts ours?

Each engine that is installed gets the checkpoint in the form that it loads, goes on from 30 prompts
(thinking on and off), cuts 350 texts into ids and writes 20 conversations as prompts. Its answers are
compared with those of our model in float32: equal, tie (both sides prefer their token by less than 0.001),
or differs at token n, with both margins.

An engine runs in the interpreter that has it. --install makes an environment for each that is named, in
the user's cache ($QWEN3_ENGINES names another folder), from PyPI; --remove deletes it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from qwen3_ref.commands.common import MODULE, Misuse, checkpoint_directory, program
from qwen3_ref.engines.catalog import CATALOG, LIGHT, NAMES, Engine, engine_of
from qwen3_ref.engines.environments import NotInstalled, cache, install, interpreter, remove
from qwen3_ref.engines.peer import Peer
from qwen3_ref.engines.report import RECORDED, keep, load, markdown, plain
from qwen3_ref.store.shipped import NANO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `engines`."""
    known = ", ".join(NAMES)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"{known}; light: {', '.join(LIGHT)}")
    parser.add_argument("--model", nargs="+", default=list(NANO), metavar="NAME_OR_DIR",
                        help="checkpoints (default: the nano family)")  # fmt: skip
    kinds = "of weights, where the engine has them: f32, bf16, f16, q8_0, q4_0, int8 (default: f32)"
    parser.add_argument("--type", nargs="+", default=["f32"], metavar="TYPE", help=kinds)
    parser.add_argument("--install", action="store_true", help="what is not here, into the user's cache")
    parser.add_argument("--remove", action="store_true", help="the environments of these engines")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the rows in a JSON file, too")
    budgets = "what a thinking budget means in ours, in two calls, in llama.cpp; with --out, kept"
    parser.add_argument("--budgets", action="store_true", help=budgets)
    parser.add_argument("--table", action="store_true", help="print what was recorded, as Markdown")


def command(args: argparse.Namespace, out: Console) -> int:
    """Install, remove, print or compare; returns the exit code, 1 if an engine differs in float32."""
    names = [name for one in args.names for name in (LIGHT if one == "light" else (one,))]
    try:
        chosen = [engine_of(name) for name in dict.fromkeys(names)]
    except ValueError as error:
        raise Misuse(str(error)) from None
    if args.table:
        print(markdown(load(args.out or RECORDED)), end="")
        return 0
    if args.remove or args.install:
        if not chosen:
            raise Misuse("say which engines; `engines --install llama.cpp` takes one, `light` is four.")
        if args.remove:
            return _remove(chosen)
    if args.budgets:
        return _budgets(args)
    return _compare(args, chosen or list(CATALOG))


def _budgets(args: argparse.Namespace) -> int:
    name = args.model[0]
    place, python = checkpoint_directory(name), interpreter(engine_of("llama.cpp"))
    from qwen3_ref.engines import budgets
    from qwen3_ref.engines.survey import Ours

    ours, asked = Ours.of(name, place), budgets.problems()
    rows = budgets.measured("ours", budgets.our_way(ours), ours, asked)
    rows += budgets.measured("two calls", budgets.two_calls(ours), ours, asked)
    if python is None:
        print(f"llama.cpp is not checked: `{program()} engines --install llama.cpp`", file=sys.stderr)
    else:
        with TemporaryDirectory(prefix="qwen3_ref-") as work:
            given = {"source": str(place), "files": work, "type": "f32", "context": ours.room}
            with Peer(python, "llama", threads=ours.threads, **given) as peer:
                rows += budgets.measured("llama.cpp", budgets.server(peer), ours, asked)
                message = ours.profile.early_stop.partition("</think>")[0]
                way = budgets.server(peer, message)
                rows += budgets.measured("llama.cpp, told to say it", way, ours, asked)
    print(budgets.plain(rows), end="")
    if args.out is not None:
        date = time.strftime("%Y-%m-%d")
        keep(args.out, [], budgets={"model": name, "date": date, "rows": rows})
    return 0


def _remove(chosen: list[Engine]) -> int:
    for engine in chosen:
        said = "removed" if remove(engine) else "there was no environment"
        print(f"{engine.name}: {said} ({cache() / engine.name})")
    return 0


def _installed(chosen: list[Engine]) -> dict[str, str]:
    """Install what is not here; why some could not be, by name."""
    why = {}
    for engine in chosen:
        if interpreter(engine) is None:
            print(f"installing {engine.name} (about {engine.size} MB) ...", file=sys.stderr, flush=True)
            try:
                install(engine)
            except NotInstalled as error:
                why[engine.name] = str(error)
    return why


def _compare(args: argparse.Namespace, chosen: list[Engine]) -> int:
    if not any(kind in engine.types for engine in chosen for kind in args.type):
        kinds = " or ".join(args.type)
        raise Misuse(f"none of these engines has weights of type {kinds}; see `{MODULE} engines --help`.")
    places = {name: checkpoint_directory(name) for name in dict.fromkeys(args.model)}
    why = _installed(chosen) if args.install else {}
    from qwen3_ref.engines.survey import NO_EXPERTS, Ours, Row, failed, row

    rows: list[Row] = []
    for name, place in places.items():
        ours = Ours.of(name, place)
        for engine in chosen:
            for kind in args.type:
                if kind not in engine.types:
                    continue
                found = row(engine, ours, kind, lambda text: print(text, file=sys.stderr, flush=True))
                if engine.name in why and "missing" in found:
                    found["missing"] = why[engine.name]
                    found["installed"] = True  # it was tried
                elif not found.get("installed", True):
                    found["missing"] = f"not installed; `{program()} engines --install {engine.name}`"
                rows.append(found)
                if args.out is not None and ("prompts" in found or found["missing"] == NO_EXPERTS):
                    keep(args.out, [found])  # at once: the next one may take minutes
    print(plain(rows), end="")
    if args.out is not None and args.out.exists():
        print(f"Written: {args.out}")
    return 1 if any(map(failed, rows)) else 0
