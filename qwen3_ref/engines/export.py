"""One checkpoint, written as an engine loads it: `export("qwen3-nano", "gguf", "out")`.

What is written: the weights in the engine's own format, what it reads of settings, `settings.json` with
all that a caller of any engine has to know (sampling of each mode, ids and texts that end a reply, template,
parsers), and a README of three lines, whose second is the command that runs it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError

from qwen3_ref import __version__
from qwen3_ref.engines import gguf
from qwen3_ref.engines.source import Source, dump, from_directory
from qwen3_ref.engines.targets import ENGINES, Engine
from qwen3_ref.official.snapshots import find_official
from qwen3_ref.store.errors import CheckpointError, quoted
from qwen3_ref.store.files import UNFINISHED, cannot_write, require_path, write_atomically
from qwen3_ref.store.shipped import local_directory


def open_source(source: str | os.PathLike[str] | Source) -> Source:
    """A checkpoint by its directory, its GGUF file, the name of one of the nano family, or of an official one
    that is on this machine. Raises CheckpointError, ConfigError and ValueError as its readers do."""
    if isinstance(source, Source):
        return source
    name = require_path(source, "the checkpoint")
    if os.path.isfile(name):
        return gguf.read(name)
    if (place := local_directory(name)) is None and not os.path.exists(name) and os.sep not in name:
        place = find_official(name)
        if place is None:
            raise CheckpointError(
                f"{name} is not on this machine; `python -m qwen3_ref fetch {name}` downloads it."
            )
    return from_directory(place or name)


def export(
    source: str | os.PathLike[str] | Source,
    to: str,
    out: str | os.PathLike[str],
    type: str | None = None,
) -> Path:
    """Write a checkpoint for an engine into the directory `out`; returns it.

    to: one of ENGINES. type: of the weights, one of that engine's; what the checkpoint has if None. Files
    of `out` that have the same names are replaced, when all are written; others are not touched.
    Raises ValueError for an unknown engine or type; CheckpointError for a package that is missing, a model
    that the engine has no place for, or what cannot be read or written: then `out` is as it was.
    """
    if to not in ENGINES:
        raise ValueError(f"there is no export to {quoted(to)}; there are {', '.join(ENGINES)}.")
    engine = ENGINES[to]
    if type is not None and type not in engine.types:
        raise ValueError(f"type is {quoted(type)}; {engine.name} takes {', '.join(engine.types)} here.")
    if engine.package and find_spec(engine.package) is None:
        raise CheckpointError(
            f"the export to {to} needs the package {engine.package}, which is not installed; "
            f"`pip install {engine.package}` brings it."
        )
    source = open_source(source)
    if type is None:
        type = source.type if source.type in engine.types else engine.types[0]
    target = Path(require_path(out))
    unfinished, new = target / UNFINISHED, not target.exists()
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        module, _, function = engine.write.partition(":")
        write = getattr(import_module(f"qwen3_ref.engines.{module}"), function)
        command = write(source, unfinished, type, target)
        write_atomically(unfinished / "settings.json", dump(source.settings(type)))
        write_atomically(unfinished / "README", _readme(source, engine, type, command))
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
            if path.is_dir() and (target / path.name).is_dir():
                shutil.rmtree(target / path.name)
            os.replace(path, target / path.name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(cannot_write(target, error)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):
                target.rmdir()  # if nothing came into it
    return target


def _readme(source: Source, engine: Engine, type: str, command: str) -> str:
    """Three lines: what this is, how to run it, where its settings are."""
    return (
        f"{source.name} for {engine.name}, weights in {type}, written by qwen3_ref {__version__}.\n"
        f"Run: {command}\n"
        f"Sampling of each mode, stop ids, template and parsers: settings.json.\n"
    )
