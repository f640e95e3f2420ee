"""The calculator that the nano family was taught to call: arithmetic that is parsed and never executed."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

from qwen3_ref.chat import Json
from qwen3_ref.decode.tools import Tool, run_call

LONGEST, LARGEST = 100, 10**12


class CalculatorError(ValueError):
    """An expression that the calculator does not take: the sentence says why."""


_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def calculate(expression: str) -> int | float:
    """The value of + - * / // % ** and parentheses over decimal numbers ("07" is 7), by Python's rules.

    The text is parsed, never executed. Raises CalculatorError for anything else, for an expression of
    more than 100 characters, and for a value, also on the way, beyond a million million.
    """
    if len(expression) > LONGEST:
        raise CalculatorError(f"the expression has {len(expression)} characters; at most {LONGEST} are read.")
    if not re.fullmatch(r"[0-9+\-*/%(). ]*", expression):
        raise CalculatorError(f"{expression!r} holds more than numbers, + - * / // % ** and parentheses.")
    plain = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", expression)  # Python takes no leading zeros
    try:
        return _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise CalculatorError(f"{expression!r} is not a calculation.") from None
    except ZeroDivisionError:
        raise CalculatorError(f"{expression!r} divides by zero.") from None


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        found: int | float = node.value  # type: ignore[assignment]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        inner = _value(node.operand)
        found = -inner if isinstance(node.op, ast.USub) else inner
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            _require_power(left, right)
        found = _BINARY[type(node.op)](left, right)
    else:
        raise CalculatorError(f"{ast.unparse(node)!r} is not a calculation.")
    if not abs(found) <= LARGEST:  # NaN too
        raise CalculatorError(f"a value is larger than {LARGEST:,}.")
    return found


def _require_power(base: float, exponent: float) -> None:
    """Refuse, before it is computed, what would be too large or not a real number."""
    if base < 0 and exponent != int(exponent):
        raise CalculatorError("a negative number to a broken power is not a real number.")
    if base and exponent * math.log10(abs(base)) > math.log10(LARGEST):
        raise CalculatorError(f"a value is larger than {LARGEST:,}.")


BARE: Json = {
    "name": "calculator",
    "description": "Work out an expression.",
    "parameters": {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
}
"""The tool's definition without its wrapper, which is how the shipped nano family was trained on it and
measured. It calls as well with the wrapper: of 200 sums 200 calls, and the same ones right."""
CALCULATOR: Json = {"type": "function", "function": BARE}
"""The tool's definition in the form of OpenAI's interface, which servers insist on."""


def _result(expression: str) -> str:
    value = calculate(expression)
    return str(value) if isinstance(value, int) else f"{value:.10g}"


CALCULATOR_TOOL = Tool(_result, CALCULATOR)


def run_tool(call: Json) -> str:
    """What a call of the calculator returns: the value, or a sentence that begins with "error"."""
    return run_call((CALCULATOR_TOOL,), call)
