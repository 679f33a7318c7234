"""A calculator for the assistant: arithmetic on numbers, by a walk over the syntax tree; nothing is evaluated."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

Number = int | float

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_LONGEST, _DIGITS = 500, 100  # characters of an expression; digits of a number


def calculator(expression: str) -> str:
    """Compute an arithmetic expression with + - * / // % ** and parentheses.

    Args:
        expression: the expression, such as (12 + 34) * 5
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"the expression has more than {_LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("that is not an arithmetic expression") from error
    value = _value(tree.body)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value) if isinstance(value, int) else format(value, ".15g")


def _value(node: ast.AST) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _bounded(_UNARY[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            if abs(left) > 1 and right * math.log10(abs(left)) > _DIGITS:
                raise ValueError(f"the number has more than {_DIGITS} digits")
            if left < 0 and right != int(right):
                raise ValueError("a negative number has no power with a broken exponent")
        return _bounded(_BINARY[type(node.op)](left, right))
    raise ValueError("an expression holds numbers, + - * / // % ** and parentheses")


def _bounded(value: Number) -> Number:
    if not abs(value) < 10**_DIGITS:  # nan too
        raise ValueError(f"the number has more than {_DIGITS} digits")
    return value
