"""What holds where nothing is said: every default, every constant and every option, as recorded.

Measured numbers rest on them, and most are used by so many tests that none of these would notice
another one. A change that is meant: `python -m tests.test_settings` writes the record anew, and the
diff shows what has changed.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

import qwen3_ref
from tests.helpers import shown

PACKAGE = Path(qwen3_ref.__file__).parent
RECORD = Path(__file__).parent / "settings.txt"
FILES = [
    name
    for path in sorted(PACKAGE.rglob("*.py"))
    if not (name := path.relative_to(PACKAGE).as_posix()).startswith("course/plots/")
    and name != "__main__.py"
]
LEFT_OUT = {"HELP", "ROOT", "T", "_FULL", "_OUTPUT"}
"""A text for people, the folder of the checkout, a variable of types, and numbers of the system's own."""


def constants(module: ModuleType, tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """What is assigned at the top of a file under a name in capitals."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for name in ast.walk(target) if isinstance(target, ast.AST) else ():
                if isinstance(name, ast.Name) and name.id.isupper() and name.id not in LEFT_OUT:
                    yield name.id, getattr(module, name.id)


def defaults(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Of functions, methods and the fields of dataclasses."""
    found = {k: v for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    for name, value in found.items():
        for inner, attribute in vars(value).items() if isinstance(value, type) else [("", value)]:
            function = inspect.unwrap(getattr(attribute, "__func__", attribute))  # of a class method
            if not inspect.isfunction(function):
                continue
            for parameter in inspect.signature(function).parameters.values():
                if parameter.default is not parameter.empty and "FACTORY" not in repr(parameter.default):
                    yield f"{name}{'.' if inner else ''}{inner}({parameter.name})", parameter.default


def options(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a command takes: of each option its default, what else there is, and which of some values pass."""
    parser = argparse.ArgumentParser()
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    elif ".measure." in module.__name__ and hasattr(module, "main"):
        found: list[argparse.ArgumentParser] = []

        def stop(self: argparse.ArgumentParser, _: object) -> None:
            found.append(self)
            raise SystemExit

        with mock.patch.object(argparse.ArgumentParser, "parse_args", stop), suppress(SystemExit):
            module.main([])
        (parser,) = found
        yield "description", " ".join((parser.description or "").split())[:60]
    for action in parser._actions[1:]:  # the first is --help
        taken = [word for word in ("-1", "0", "0.5", "1", "2", "5") if takes(action, word)]
        rest = (action.choices and list(action.choices), action.nargs, action.required, taken)
        yield "/".join(action.option_strings) or action.dest, (action.default, *rest)


def takes(action: argparse.Action, word: str) -> bool:
    try:
        return callable(action.type) and action.type(word) is not None
    except (ValueError, argparse.ArgumentTypeError):
        return False


def settings(file: str) -> list[str]:
    """The lines of the record that are about one file of the package."""
    module = importlib.import_module("qwen3_ref." + file.removesuffix(".py").replace("/", "."))
    tree = ast.parse((PACKAGE / file).read_text("utf-8"))
    found = [*constants(module, tree), *defaults(module), *options(module)]
    return [f"{file} {name} = {shown(value)}" for name, value in dict(found).items()]


@pytest.mark.parametrize("file", FILES)
def test_defaults_and_constants(file: str) -> None:
    recorded = RECORD.read_text("utf-8").splitlines()
    assert settings(file) == [line for line in recorded if line.startswith(f"{file} ")]


if __name__ == "__main__":
    RECORD.write_text("".join(f"{line}\n" for file in FILES for line in settings(file)), encoding="utf-8")
