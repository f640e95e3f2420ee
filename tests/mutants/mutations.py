"""The mistakes: every place of a source text where one of the usual kinds could be made.

Kinds: another comparison, a constant one off, `and` for `or`, a `not` left out, True for False, a keyword
argument not handed on, two arguments swapped, a statement left out, a string key misspelt, `min` for
`max`, another end of a slice, another dtype, another operator, a condition reversed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WORDS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
"""Operators: how each is written, and what stands there by mistake."""
NAMES = dict(
    pair.split(":")
    for pair in """min:max max:min any:all all:any sorted:list amax:amin argmax:argmin clamp_min:clamp_max
    clamp_max:clamp_min startswith:endswith endswith:startswith strip:rstrip lstrip:strip rstrip:strip
    removeprefix:removesuffix float32:float64 float64:float32 bfloat16:float16 float16:bfloat16
    int64:int32""".split()
)
EITHER_WAY = {"min", "max", "minimum", "maximum"}
"""Functions that are the same with their arguments swapped."""
SILENT = {"help", "metavar", "encoding", "strict", "flush", "stacklevel"}
"""Arguments whose loss nothing can see here: help texts, UTF-8 where it is the default, equal lengths."""


@dataclass(frozen=True)
class Mutant:
    """One mistake: `new` in place of source[start:end], and where that is."""

    file: str
    kind: str
    start: int
    end: int
    new: str
    line: int
    scope: str
    """The function it stands in, by qualified name; "" outside."""
    statement: int
    """Line of the statement, counted from the function's `def`."""
    before: str
    """The line as it stands, without margins; of several, the first to the last that change."""
    after: str

    def applied(self, source: str) -> str:
        """The source with the mistake in it."""
        return source[: self.start] + self.new + source[self.end :]


def is_text(node: ast.AST) -> bool:
    """Whether an operand is a text as it stands: `+` and `%` mean other things there."""
    return isinstance(node, ast.JoinedStr) or isinstance(node, ast.Constant) and isinstance(node.value, str)


class Places(ast.NodeVisitor):
    """Walks over a tree and notes (kind, start, end, new, scope, statement)."""

    def __init__(self, source: str) -> None:
        self.source = source
        lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line))
        self.lines = lines
        self.found: list[tuple[str, int, int, str, str, int]] = []
        self.scope: list[str] = []
        self.first = 0
        self.statement = 0

    def at(self, line: int, column: int) -> int:
        """Place in the text; ast counts columns in bytes."""
        text = self.lines[line - 1].encode()[:column].decode()
        return self.starts[line - 1] + len(text)

    def span(self, node: Any) -> tuple[int, int]:
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def note(self, kind: str, node: Any, new: str, end: Any = None) -> None:
        start, stop = self.span(node)
        if end is not None:
            stop = self.span(end)[1]
        scope = ".".join(self.scope) if self.first else ""
        self.found.append((kind, start, stop, new, scope, self.statement - self.first))

    def between(self, left: ast.AST, right: ast.AST, operator: ast.AST, kind: str) -> None:
        """Change the operator between two nodes; brackets may stand there too."""
        old, new = WORDS[type(operator)]
        start, stop = self.span(left)[1], self.span(right)[0]
        if self.source[start:stop].count(old) == 1:
            at = start + self.source[start:stop].index(old)
            scope = ".".join(self.scope) if self.first else ""
            self.found.append((kind, at, at + len(old), new, scope, self.statement - self.first))

    # -- statements ------------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            outer, self.statement = self.statement, node.lineno
            self.left_out(node)
            super().visit(node)
            self.statement = outer
        else:
            super().visit(node)

    def left_out(self, node: ast.stmt) -> None:
        called = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield)
        stored = isinstance(node, ast.Assign) and not any(isinstance(t, ast.Name) for t in node.targets)
        if called or stored or isinstance(node, ast.AugAssign | ast.Continue | ast.Break | ast.Raise):
            if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)):
                self.note("statement left out", node, "pass")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.first = self.first, self.first or node.lineno
        self.scope.append(node.name)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()
        self.first = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:  # never the annotation
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is no place for a mistake here."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nor is what is printed."""

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        test = node.test
        if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            start, end = self.span(test)
            self.note("condition reversed", test, f"not {self.source[start:end]}")
        self.generic_visit(node)

    visit_While = visit_IfExp = visit_If  # type: ignore[assignment]

    # -- expressions -----------------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            self.between(left, right, op, "another comparison")
            self.key(right)
            left = right
        self.key(node.left)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in WORDS and not any(map(is_text, (node.left, node.right))):
            self.between(node.left, node.right, node.op, "another operator")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, node.op, "and for or")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            start, end = self.span(node.operand)
            self.note("not left out", node, self.source[start:end])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.note("True for False", node, str(not value))
        elif isinstance(value, int):
            self.note("one off", node, str(value + 1))
            if value > 1:
                self.note("one off", node, str(value - 1))
        elif isinstance(value, float):
            self.note("another number", node, repr(value * 1.5 if value else 0.5))

    def key(self, node: ast.AST | None) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
            self.note("misspelt key", node, repr(node.value + "_"))

    def visit_Dict(self, node: ast.Dict) -> None:
        for key in node.keys:
            self.key(key)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.key(node.slice)
        if isinstance(node.slice, ast.Slice):
            for bound in (node.slice.lower, node.slice.upper):
                if bound is not None:
                    start, end = self.span(bound)
                    self.note("another end of a slice", bound, f"{self.source[start:end]} + 1")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("get", "pop", "setdefault") and node.args:
            self.key(node.args[0])
        for i, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg not in SILENT:
                kept = [*node.keywords[:i], *node.keywords[i + 1 :]]
                new = ast.unparse(ast.Call(node.func, node.args, kept))
                self.note("argument not handed on", node, new)
        for a, b in zip(node.args, node.args[1:], strict=False):
            if name not in EITHER_WAY and isinstance(a, ast.Name) and isinstance(b, ast.Name):
                (s, e), (t, f) = self.span(a), self.span(b)
                self.note(
                    "arguments swapped", a, self.source[t:f] + self.source[e:t] + self.source[s:e], end=b
                )
        self.visit(node.func)
        for argument in (*node.args, *(k.value for k in node.keywords if k.arg not in SILENT)):
            self.visit(argument)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NAMES and isinstance(node.ctx, ast.Load):
            self.note("another name", node, NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in NAMES and isinstance(node.ctx, ast.Load):
            start, end = self.span(node)
            self.note("another name", node, self.source[start : end - len(node.attr)] + NAMES[node.attr])
        self.generic_visit(node)


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Every mistake that the kinds make in a file of the package. Those that do not compile are left out."""
    places = Places(source)
    places.visit(ast.parse(source))
    for kind, start, end, new, scope, statement in places.found:
        low = source.rfind("\n", 0, start) + 1
        high = source.find("\n", end)
        high = len(source) if high < 0 else high
        before = " ".join(source[low:high].split())
        after = " ".join((source[low:start] + new + source[end:high]).split())
        yield Mutant(
            file, kind, start, end, new, source.count("\n", 0, start) + 1, scope, statement, before, after
        )
