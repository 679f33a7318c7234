"""`where`: conditions on records and configs that select runs.

    algorithm.beta<0.2 and status=completed
    task=arithmetic, (seed<5 or seed in [7,9]), not variant=dpo*

A condition is a key, one of = != < <= > >= in, and a value. `and` and a comma bind tighter than `or`; `not` binds tightest. A key
is given in full (loss.beta) or by an unambiguous ending (beta). A value with spaces, commas or brackets needs quotes; * in an
unquoted text matches anything. A run without the key has null there.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rlx.config.suggest import did_you_mean, right_name
from rlx.errors import ConfigError

Facts = Mapping[str, Any]
_TOKEN = re.compile(
    r"""\s*(?:(?P<sign><=|>=|!=|==|[=<>])|(?P<mark>[()\[\],])|(?P<text>'[^']*'|"[^"]*")|(?P<word>[^\s()\[\],=<>!'"]+))"""
)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_WORDS: dict[str, Any] = {"null": None, "none": None, "true": True, "false": False}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"^([\d.]+)(s|min|h|d)$")
_DEEPEST = 50


@dataclass(frozen=True)
class Literal:
    """A value as written: quoted text stays text; a bare word may be a number, a pattern or null."""

    text: str
    is_quoted: bool

    @property
    def value(self) -> Any:
        """The value that the text denotes."""
        if self.is_quoted:
            return self.text
        if self.text.lower() in _WORDS:
            return _WORDS[self.text.lower()]
        found = _DURATION.match(self.text)
        for text, factor in ((self.text, 1.0), *([(found[1], _SECONDS[found[2]])] if found else [])):
            try:
                return float(text) * factor
            except ValueError:
                continue
        return self.text

    def equals(self, value: Any) -> bool:
        """Whether a value of a record equals this one: numbers by value, texts by pattern."""
        wanted = self.value
        if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
            return value is wanted
        if isinstance(value, (int, float)) and isinstance(wanted, float):
            return bool(value == wanted)
        if self.is_quoted or not set("*?") & set(self.text):
            return str(value) == self.text
        return fnmatchcase(str(value), self.text.replace("[", "[[]"))


@dataclass(frozen=True)
class Condition:
    """A key, an operator and its values; several values only for `in`."""

    key: str
    sign: str
    values: tuple[Literal, ...]

    def holds(self, facts: Facts) -> bool:
        """Whether the facts of a run satisfy the condition."""
        value = facts.get(self.key)
        if self.sign in ("=", "==", "in"):
            return any(literal.equals(value) for literal in self.values)
        if self.sign == "!=":
            return not self.values[0].equals(value)
        wanted = self.values[0].value
        if isinstance(value, str) and isinstance(wanted, float):
            wanted = self.values[0].text  # dates and versions: 2026-11 < 2026-11-22
        numbers = isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(wanted, float)
        texts = isinstance(value, str) and isinstance(wanted, str)
        return (numbers or texts) and _ORDER[self.sign](value, wanted)


@dataclass(frozen=True)
class Query:
    """A parsed `where`: `any of` (`or`), `all of` (`and`), `none of` (`not`) its parts."""

    kind: str
    parts: tuple[Query | Condition, ...]

    def holds(self, facts: Facts) -> bool:
        """Whether a run with these facts is selected."""
        held = (part.holds(facts) for part in self.parts)
        return any(held) if self.kind == "or" else all(held) if self.kind == "and" else not any(held)


def keep(items: Sequence[Any], where: str | None, *, facts: Callable[[Any], Facts]) -> list[Any]:
    """The items whose facts satisfy `where`; None keeps all. A key that no item has is refused, with the nearest valid one."""
    known = [facts(item) for item in items]
    if where is None or not where.strip():
        return list(items)
    query = _Parser(where, list(dict.fromkeys(key for fact in known for key in fact))).query()
    return [item for item, fact in zip(items, known, strict=True) if query.holds(fact)]


def resolve(key: str, known: Iterable[str], *, what: str = "where") -> str:
    """The full key that is meant: itself, or the shallowest key with this ending."""
    options = list(known)
    if key in options or not options:
        return key
    found = [option for option in options if option.endswith((f".{key}", f"/{key}"))]
    shallow = sorted(option for option in found if option.count(".") == min(other.count(".") for other in found))
    if len(shallow) == 1:
        return shallow[0]
    if shallow:
        raise ConfigError(f"{what}: {key} may be {' or '.join(shallow[:4])}; give it in full")
    raise ConfigError(f"{what}: no run has a key {key}{did_you_mean(right_name(key, options))}")


class _Parser:
    """One pass over the tokens, from left to right."""

    def __init__(self, text: str, known: Sequence[str]) -> None:
        self._text = text
        self._known = known
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                raise self._wrong(f"{text[place:].strip()[0]} at {place} is not valid there; is a quote not closed?")
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind]))
            place = found.end()
        self._next = 0

    def query(self) -> Query:
        """Parse the whole text of a query."""
        query = self._either(0)
        if self._next < len(self._tokens):
            raise self._wrong(f"`{self._tokens[self._next][1]}` does not follow; join conditions with and, or")
        return query

    def _wrong(self, reason: str) -> ConfigError:
        return ConfigError(f"where={self._text}: {reason}, as in where='loss.beta<0.2 and status=completed'")

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "")

    def _take(self, kind: str, *texts: str) -> bool:
        found_kind, found = self._peek()
        if found_kind == kind and (not texts or found.lower() in texts):
            self._next += 1
            return True
        return False

    def _either(self, depth: int) -> Query:
        if depth > _DEEPEST:
            raise self._wrong("too many brackets")
        parts = [self._both(depth)]
        while self._take("word", "or"):
            parts.append(self._both(depth))
        return Query("or", tuple(parts))

    def _both(self, depth: int) -> Query:
        parts = [self._one(depth)]
        while self._take("word", "and") or self._take("mark", ","):
            parts.append(self._one(depth))
        return Query("and", tuple(parts))

    def _one(self, depth: int) -> Query | Condition:
        if self._take("word", "not"):
            return Query("not", (self._one(depth + 1),)) if depth < _DEEPEST else self._either(depth + 1)
        if self._take("mark", "("):
            inside = self._either(depth + 1)
            if not self._take("mark", ")"):
                raise self._wrong("a bracket is not closed")
            return inside
        return self._condition()

    def _condition(self) -> Condition:
        kind, key = self._peek()
        if kind not in ("word", "text"):
            raise self._wrong(f"a key is missing before `{key}`" if key else "a condition is missing at the end")
        self._next += 1
        key = resolve(key.strip("'\""), self._known)
        kind, sign = self._peek()
        if kind == "word" and sign.lower() == "in":
            self._next += 1
            return Condition(key, "in", self._list(key))
        if kind != "sign":
            raise self._wrong(
                f"after {key} comes one of = != < <= > >= in, not `{sign}`" if sign else f"{key} is compared with nothing"
            )
        self._next += 1
        literal = self._literal(f"{key}{sign}")
        if self._peek()[0] == "sign":
            raise self._wrong(f"two signs in a row; write {key}{sign}{literal.text} and {key}{self._peek()[1]}...")
        if sign in _ORDER and not isinstance(literal.value, (float, str)):
            raise self._wrong(f"{literal.text} cannot be ordered; use = or !=")
        return Condition(key, sign, (literal,))

    def _list(self, key: str) -> tuple[Literal, ...]:
        closing = "]" if self._take("mark", "[") else ")" if self._take("mark", "(") else None
        if closing is None:
            raise self._wrong(f"write {key} in [1,2,3]")
        values = [self._literal(key)]
        while self._take("mark", ","):
            values.append(self._literal(key))
        if not self._take("mark", closing):
            raise self._wrong("the list is not closed")
        return tuple(values)

    def _literal(self, before: str) -> Literal:
        kind, text = self._peek()
        if kind not in ("word", "text"):
            raise self._wrong(f"{before} lacks a value")
        self._next += 1
        return Literal(text[1:-1], True) if kind == "text" else Literal(text, False)
