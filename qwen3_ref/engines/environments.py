"""Where engines live: an environment of its own for each, made on request, kept in the user's cache.

An environment "above" sees the packages of this interpreter behind its own, through a .pth file, so that
PyTorch is not installed a second time; pip takes what it sees there for installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import site
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

from qwen3_ref.engines.catalog import Engine
from qwen3_ref.store.files import cannot_write, write_atomically

READY = "ready.json"
"""Written last, with what was installed: without it, or with another list, an environment is made anew."""
ABOVE = "qwen3_ref_above.pth"
INSTALL_SECONDS = 1800


class NotInstalled(Exception):
    """An engine that cannot be run here: the sentence says why."""


def cache() -> Path:
    """Where the environments are: $QWEN3_ENGINES, or a folder in the user's cache."""
    if given := os.environ.get("QWEN3_ENGINES"):
        return Path(given)
    if sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "qwen3_ref" / "engines"


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def interpreter(engine: Engine) -> Path | None:
    """An interpreter that has the engine: its own environment's, or this one; None if neither has."""
    folder = cache() / engine.name
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / READY).read_text(encoding="utf-8")) == list(engine.needs):
            return _python(folder)
    return Path(sys.executable) if engine.above and find_spec(engine.module) else None


def install(engine: Engine) -> Path:
    """Make the engine's environment, if no interpreter has it yet; returns the interpreter.

    Raises NotInstalled, with pip's own last words, if it cannot be made; nothing is left of it then."""
    if (found := interpreter(engine)) is not None:
        return found
    folder = cache() / engine.name
    remove(engine)
    try:
        folder.mkdir(parents=True)
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        if engine.above:
            where = [place for place in site.getsitepackages() if Path(place).is_dir()]
            (inside,) = folder.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
            write_atomically(inside / ABOVE, "".join(f"{place}\n" for place in where))
        pip = [sys.executable, "-m", "pip", "--python", str(_python(folder)), "install", "--quiet"]
        done = subprocess.run(
            [*pip, "--disable-pip-version-check", *engine.needs], capture_output=True, text=True,
            encoding="utf-8", errors="replace", timeout=INSTALL_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NotInstalled(f"pip could not install {' '.join(engine.needs)}: {_last(done.stderr)}")
        write_atomically(folder / READY, json.dumps(engine.needs))
    except subprocess.TimeoutExpired:
        remove(engine)
        raise NotInstalled(f"pip took more than {INSTALL_SECONDS // 60} minutes; try again.") from None
    except OSError as error:
        remove(engine)
        raise NotInstalled(cannot_write(folder, error)) from None
    except BaseException:  # Ctrl-C too
        remove(engine)
        raise
    return _python(folder)


def remove(engine: Engine) -> bool:
    """Delete the engine's environment; returns whether there was one."""
    folder = cache() / engine.name
    there = folder.is_dir()
    shutil.rmtree(folder, ignore_errors=True)
    return there


def _last(text: str) -> str:
    """What pip said last, without its marks."""
    lines = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("[notice]")]
    return lines[-1][:300] if lines else "it says nothing"
