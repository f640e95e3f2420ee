"""A fault is a piece of the package's source and what a buggy port has in its place."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One bug: a piece of the package's text, and what a buggy port has in its place."""

    name: str
    rows: str = "own"
    """Rows of README.md ("1", "2, 14"); "measured" for the list below its table, "own" for ours."""
    words: str
    """The wrong line in words; of an equivalent mutant, why nothing can differ."""
    module: str
    right: str | tuple[str, ...]
    """One piece of text, or several; each stands once in the module."""
    wrong: str | tuple[str, ...]
    """What stands there instead, piece by piece."""
    by: tuple[str, ...] = ()
    """Checks to try first; all others follow."""

    @property
    def edits(self) -> list[tuple[str, str]]:
        """The pairs (right, wrong)."""
        right, wrong = ((x,) if isinstance(x, str) else x for x in (self.right, self.wrong))
        return list(zip(right, wrong, strict=True))

    def source(self) -> tuple[str, str]:
        """The module's source, right and wrong. Raises LookupError when the code has moved on."""
        right = Path(_module(self).__file__ or "").read_text(encoding="utf-8")
        wrong = right
        for old, new in self.edits:
            if wrong.count(old) != 1:
                raise LookupError(
                    f"{self.name}: this text stands {wrong.count(old)} times in {self.module}, not once; "
                    f"bring the fault up to date with the code:\n{old}"
                )
            wrong = wrong.replace(old, new)
        return right, wrong


ON: list[Fault] = []
"""Those that are on now: processes that a test starts have to switch them on too."""


@contextmanager
def switched_on(fault: Fault, *others: Fault) -> Iterator[None]:
    """Run the package with one fault in it, or with several, no two in one function.

    The wrong source is compiled, and every function whose code differs gets the wrong code, in place:
    whoever has imported the function runs it too. Constants of the module that differ are set anew
    (visible through the module only). Everything is put back at the end, whatever happens.
    Raises LookupError if the source does not fit, or is not what was imported.
    """
    module = _module(fault)
    right, wrong = map(_parsed, fault.source())
    functions, constants = {}, {}
    for name, function in _functions(module).items():
        if name in wrong.codes and wrong.codes[name] != right.codes[name]:
            functions[name] = function
            if function.__code__ != right.codes[name]:
                raise LookupError(f"{fault.name}: {name} is not what {module.__file__} says; start afresh.")
    for name, statement in wrong.constants.items():
        if name in right.constants and ast.dump(statement) != ast.dump(right.constants[name]):
            constants[name] = statement
    if not functions and not constants:
        raise LookupError(f"{fault.name} changes nothing that runs.")
    old_codes = {name: function.__code__ for name, function in functions.items()}
    old_constants = {name: vars(module)[name] for name in constants}
    try:
        for name, function in functions.items():
            function.__code__ = wrong.codes[name]
        for statement in constants.values():
            exec(compile(ast.Module([statement], []), "<fault>", "exec"), vars(module))
        forget(module)
        ON.append(fault)
        with switched_on(*others) if others else nullcontext():
            yield
    finally:
        if fault in ON:
            ON.remove(fault)
        for name, function in functions.items():
            function.__code__ = old_codes[name]
        vars(module).update(old_constants)
        forget(module)


@dataclass(frozen=True)
class Parsed:
    """A module's source: code of every function and method, assignments at the top, by name."""

    codes: dict[str, CodeType]
    constants: dict[str, ast.stmt]


@functools.lru_cache(maxsize=32)
def _parsed(source: str) -> Parsed:
    tree = ast.parse(source)
    constants: dict[str, ast.stmt] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        constants |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return Parsed(_codes(compile(tree, "<fault>", "exec")), constants)


def _module(fault: Fault) -> ModuleType:
    return importlib.import_module(f"qwen3_ref.{fault.module}")


def _codes(code: CodeType) -> dict[str, CodeType]:
    """Code of every function and method by qualified name; functions inside functions are part of them."""
    found: dict[str, CodeType] = {}
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and "<locals>" not in constant.co_qualname:
            found |= {constant.co_qualname: constant} | _codes(constant)
    return found


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """Every function and method of the module by qualified name, freed of its decorators."""
    found: dict[str, FunctionType] = {}

    def add(value: Any) -> None:
        for inner in ("__func__", "fget", "func"):  # classmethod and staticmethod, property, cached_property
            value = getattr(value, inner, None) or value
        if callable(value) and not inspect.isclass(value):
            value = inspect.unwrap(value)
            if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                found[value.__qualname__] = value

    for value in vars(module).values():
        add(value)
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for member in vars(value).values():
                add(member)
    return found


def forget(module: ModuleType) -> None:
    """Empty the caches of the module's functions."""
    for value in vars(module).values():
        clear: Callable[[], None] | None = getattr(value, "cache_clear", None)
        if clear is not None:
            clear()
