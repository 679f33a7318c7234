"""The card of a loss: formula, paper, current hyperparameters, and conventions that differ between systems.

All of it is read from the docstrings and fields of the loss, so that it is written in one place.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from rlx.fields import range_of

PAPER = re.compile(r"arXiv:[\d.]+\d|doi:\S+|https?://\S+")
ENTRY = re.compile(r"^([A-Za-z_]+)(?: \(class variable\))?: (.*)$")


@dataclass(frozen=True)
class Hyperparameter:
    """name: dotted, below the loss. meaning: what it does. allowed: its range as text, "" if there is none."""

    name: str
    value: Any
    meaning: str
    allowed: str


@dataclass(frozen=True)
class Card:
    """The information needed to check a loss against its paper.

    heading: the comment of its YAML, if it names a paper that the formula does not, as for a preset.
    addition: a description of what is added to the formula. parts: the cards of the losses in a mixture, by name; else empty.
    needs_reference: None if it can never have one.
    requires: optional inputs that it reads. state: descriptions of the values that it keeps over updates.
    source: file and line of the formula.
    """

    title: str
    heading: str
    summary: str
    formula: str
    addition: str
    notation: str
    paper: str
    shapes: str
    weights: str
    hyperparameters: tuple[Hyperparameter, ...]
    conventions: tuple[str, ...]
    requires: tuple[str, ...]
    needs_reference: bool | None
    couples_rows: bool
    state: tuple[str, ...]
    source: str
    parts: Mapping[str, Card]

    def lines(self) -> list[str]:
        """The card as plain text."""
        facts = {
            "formula": self.formula,
            "plus": self.addition,
            "where": self.notation,
            "paper": self.paper,
            "shapes": self.shapes,
            "weights": self.weights,
            "reads": ", ".join(self.requires),
            "reference": {None: "", True: "needed", False: "not needed"}[self.needs_reference],
            "rows": "coupled: computed over all rows of an update at once" if self.couples_rows else "",
            "state": "; ".join(self.state),
            "source": self.source,
        }
        lines = [self.title, *(f"  {said}" for said in (self.heading, self.summary) if said)]
        lines += [*(f"  {name:<10}{fact}" for name, fact in facts.items() if fact)]
        if self.hyperparameters:
            lines.append("hyperparameters")
        for item in self.hyperparameters:
            allowed = f" ({item.allowed})" if item.allowed else ""
            lines.append(f"  {item.name} = {item.value}{allowed}{f': {item.meaning}' if item.meaning else ''}")
        if self.conventions:
            lines.append("conventions")
        lines += [f"  {convention}" for convention in self.conventions]
        for name, part in self.parts.items():
            lines += ["", *(f"  {line}" for line in [f"part {name}: {part.lines()[0]}", *part.lines()[1:]])]
        return lines


def card_of(loss: Any, *, name: str | None = None, heading: str = "") -> Card:
    """The card of an instantiated loss, advantage or value loss; `name` and `heading` are those of its YAML.

    For a class with a formula the summary is the class's; for a function it follows the first docstring line, the formula.
    """
    kind = type(loss)
    formula = getattr(kind, "formula", None)
    text = _entries(inspect.getdoc(formula) or "") if formula is not None else {}
    own = _entries(inspect.getdoc(kind) or "")
    if formula is not None and kind.__doc__ == (formula.__doc__ or ""):
        own["summary"] = own.get("prose", own["summary"])
        text["summary"] = [_first(text, "summary") or _returned(formula)]
    parts = {key: card_of(part.loss) for key, part in getattr(loss, "parts", {}).items()}
    module = inspect.getdoc(sys.modules[kind.__module__]) or ""
    paper = _first(own, "Paper") or _first(text, "Paper")
    return Card(
        title=kind.__name__ if name is None or name.rpartition(".")[2] == kind.__name__ else f"{name} ({kind.__name__})",
        heading=heading if set(PAPER.findall(heading)) - set(PAPER.findall(paper)) else "",
        summary=_first(own, "summary"),
        formula=_first(text, "summary") or _first(own, "summary"),
        addition=_addition(loss),
        notation=" ".join([*module.partition("Notation:")[2].split(), *own.get("Where", [])]),
        paper=paper,
        shapes=_first(text, "Shapes") or ", ".join(getattr(kind, "reads", ())),
        weights=_weights(loss),
        hyperparameters=tuple(_hyperparameters(loss)),
        conventions=tuple(convention for base in kind.__mro__ for convention in _conventions(base)),
        requires=tuple(sorted(getattr(loss, "requires", ()))),
        needs_reference=getattr(loss, "needs_reference", None),
        couples_rows=bool(getattr(loss, "couples_rows", False)),
        state=tuple(f"{name}, {mean}" for name, mean in getattr(loss, "state", {}).items()),
        source=_source(kind if formula is None else formula),
        parts=parts,
    )


def _entries(doc: str) -> dict[str, list[str]]:
    """A docstring's first paragraph as `summary`, the text below it as `prose`, and each `name: text`.

    Indented lines continue the entry above.
    """
    head, _, body = doc.partition("\n\n")
    entries: dict[str, list[str]] = {"summary": [" ".join(head.split()).rstrip(".")]}
    name = ""
    for line in body.splitlines():
        found = ENTRY.match(line)
        if found is not None:
            name = found.group(1)
            entries.setdefault(name, []).append(found.group(2).strip())
        elif line.startswith(" ") and name in entries:
            entries[name][-1] += f" {line.strip()}"
        else:
            name = ""
            if set(entries) <= {"summary", "prose"} and line:
                entries["prose"] = [" ".join([*entries.get("prose", []), line.strip()])]
    if "prose" in entries:
        entries["prose"] = [entries["prose"][0].rstrip(".")]
    return entries


def _returned(formula: Any) -> str:
    """The source of the returned expression, for a function without a docstring."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(formula))).body[0]
    found = [ast.unparse(node.value) for node in ast.walk(body) if isinstance(node, ast.Return) and node.value is not None]
    return found[-1] if found else ""


def _first(entries: Mapping[str, list[str]], name: str) -> str:
    return entries[name][0].rstrip(".") if name in entries else ""


def _conventions(kind: type) -> list[str]:
    return _entries(inspect.cleandoc(kind.__doc__ or "")).get("Convention", [])


def _addition(loss: Any) -> str:
    """The KL to the reference that a policy-gradient loss adds to its surrogate."""
    if not hasattr(loss, "kl_estimator"):
        return ""
    given = f"estimated by {loss.kl_estimator}" if loss.beta else "not now: beta is 0"
    return f"beta KL(π, reference), {given}"


def _weights(loss: Any) -> str:
    """The first sentence about the weights in a docstring."""
    weighting = getattr(loss, "weighting", None)
    if weighting is not None:
        return _first(_entries(inspect.getdoc(type(weighting)) or ""), "summary")
    doc = inspect.getdoc(type(loss).weights) or "" if hasattr(type(loss), "weights") else ""
    return re.sub(r"^\[[^]]*\] ", "", doc.partition(".")[0])


def _hyperparameters(owner: Any, prefix: str = "") -> Iterator[Hyperparameter]:
    """The hyperparameters of the loss and its nested nodes, except the losses of a mixture, which have their own cards."""
    for item in fields(owner):
        value = getattr(owner, item.name)
        if isinstance(value, Mapping):
            for key, node in value.items():
                if item.name == "modifiers":
                    yield Hyperparameter(f"{prefix}{item.name}.{key}", type(node).__name__, _of_modifier(type(node)), "")
                yield from _hyperparameters(node, f"{prefix}{item.name}.{key}.")
        elif is_dataclass(value):
            if item.name != "loss":
                yield Hyperparameter(prefix + item.name, type(value).__name__, _meaning(type(owner), item.name), "")
                yield from _hyperparameters(value, f"{prefix}{item.name}.")
        else:
            allowed = range_of(type(owner), item.name)
            meaning = _meaning(type(owner), item.name)
            yield Hyperparameter(prefix + item.name, value, meaning, "" if allowed is None else str(allowed))


def _of_modifier(kind: type) -> str:
    """The summary of a modifier, then its formula with the paper, if any."""
    formula = getattr(kind, "formula", None)
    said = [_first(_entries(inspect.getdoc(kind) or ""), "summary")]
    if formula is not None:
        said.append(" ".join((inspect.getdoc(formula) or "").split()))
    return ": ".join(said)


def _meaning(kind: type, name: str) -> str:
    """The description of a field in the nearest class that documents it."""
    docs = (_entries(inspect.cleandoc(base.__doc__ or "")) for base in kind.__mro__)
    return next((_first(doc, name) for doc in docs if name in doc), "")


def _source(thing: Any) -> str:
    """The path relative to the folder that contains the package, and the line."""
    path = Path(inspect.getsourcefile(thing) or "")
    package = (thing.__module__ or "").partition(".")[0]
    above = [
        place for place in path.parents if place.name == package
    ]  # the innermost: a checkout may lie in a folder of that name
    inside = path.relative_to(above[0].parent).parts if above else (path.name,)
    return f"{'/'.join(inside)}:{inspect.getsourcelines(thing)[1]}"
