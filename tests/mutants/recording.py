"""Which test runs which statement of the package: a pytest plugin, `-p tests.mutants.recording`.

Each statement inside a function gets a companion that notes that it ran. A statement is known by its
file, its function and its line within that function, so that a change elsewhere in a file does not
matter. What runs at import (constants, defaults, fields) belongs to no test.
"""

from __future__ import annotations

import ast
import importlib.machinery
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "qwen3_ref"
HITS: set[int] = set()
KEYS: list[str] = []
"""Statement by number: "rope.py frequencies 12", file, function, lines below the `def`."""


class Notes(ast.NodeTransformer):
    """Puts `__hits__.add(number)` before every statement of every function."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.scope: list[str] = []
        self.first = 0

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.scope.append(node.name)
        self.generic_visit(node)
        self.scope.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer, self.first = self.first, self.first or node.lineno
        self.scope.append(node.name)
        self.bodies(node)
        self.scope.pop()
        self.first = outer
        return node

    def bodies(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                value[:] = [new for old in value for new in self.noted(old)]
            elif isinstance(value, list):
                for inner in value:
                    if isinstance(inner, ast.excepthandler | ast.match_case):
                        self.bodies(inner)

    def noted(self, statement: ast.stmt) -> Iterator[ast.stmt]:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            yield statement  # a docstring stays first
            return
        KEYS.append(f"{self.file} {'.'.join(self.scope)} {statement.lineno - self.first}")
        note = ast.parse(f"__hits__.add({len(KEYS) - 1})").body[0]
        for inner in ast.walk(note):
            ast.copy_location(inner, statement)
        yield note
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield self.visit(statement)  # type: ignore[misc]
        else:
            self.bodies(statement)
            yield statement


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a file of the package with notes in it."""

    def get_code(self, fullname: str) -> CodeType:
        path = Path(self.path)
        tree = ast.parse(path.read_bytes())
        Notes(path.relative_to(PACKAGE).as_posix()).visit(tree)
        return compile(ast.fix_missing_locations(tree), self.path, "exec")

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__hits__"] = HITS
        super().exec_module(module)


class Finder:
    """Finds the package's files, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] != "qwen3_ref":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            spec.loader = Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
FOUND: dict[str, Any] = {}
SHARED: dict[str, set[int]] = {}
"""What fixtures ran that several tests share, by name."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Statements that a test runs, its fixtures included. What a cache holds was run by another test."""
    HITS.clear()
    FOUND[item.nodeid] = {"seconds": 0.0, "passed": True}
    before = sum(os.times()[:4])
    yield
    FOUND[item.nodeid]["seconds"] = round(sum(os.times()[:4]) - before, 3)
    shared = [SHARED.get(name, set()) for name in getattr(item, "fixturenames", ())]
    FOUND[item.nodeid]["ran"] = sorted(HITS.union(*shared))


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
    """A fixture of a module or session runs once, for the first test that asks: it counts for all."""
    before = set(HITS)
    HITS.clear()
    yield
    if fixturedef.scope != "function":
        SHARED[fixturedef.argname] = set(HITS)
    HITS.update(before)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Whether a test can be used."""
    FOUND[report.nodeid]["passed"] &= report.passed


def pytest_sessionfinish() -> None:
    """Write what was found to the file that the environment names."""
    Path(os.environ["QWEN3_RECORD"]).write_text(json.dumps({"keys": KEYS, "tests": FOUND}), encoding="utf-8")
