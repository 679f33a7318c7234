"""A hash of Python code that changes with what the code computes, and not with its prose. Standard library only."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator

# Types are not executed; `kind` is how a string was written (u"..."); `ctx` follows from the position of a name.
_IGNORED = frozenset({"annotation", "returns", "kind", "ctx", "type_comment", "type_ignores", "type_params"})


def syntax_hash(source: bytes) -> str:
    """SHA-256 of a module's syntax tree without comments, layout, docstrings, annotations and the messages of errors.

    The same for every version of Python that can parse the module. Text that cannot be parsed is hashed as it is.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest()
    return hashlib.sha256("\0".join(_tokens(tree)).encode("utf-8", "surrogatepass")).hexdigest()


def _tokens(node: ast.AST, *, in_raise: bool = False) -> Iterator[str]:
    """The names of the nodes and fields, and the constants, in the order of the tree."""
    in_raise = in_raise or isinstance(node, ast.Raise)
    if in_raise and _is_text(node):
        yield "text"
        return
    yield type(node).__name__
    for name in node._fields:
        value = getattr(node, name, None)
        if name in _IGNORED or value is None or value == []:
            continue
        yield name
        items = value if isinstance(value, list) else [value]
        for item in _without_docstring(node, items) if name == "body" else items:
            if isinstance(item, ast.AST):
                yield from _tokens(item, in_raise=in_raise)
            else:
                yield repr(item)
    yield "end"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _without_docstring(node: ast.AST, body: list[ast.AST]) -> list[ast.AST]:
    """The statements of a module, class or function after its docstring."""
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not body:
        return body
    first = body[0]
    return body[1:] if isinstance(first, ast.Expr) and _is_text(first.value) else body
