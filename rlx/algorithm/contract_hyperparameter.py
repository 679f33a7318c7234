"""The law that every hyperparameter is read and makes a difference."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch

from rlx.algorithm.base import Algorithm
from rlx.algorithm.contract_batch import signature
from rlx.algorithm.contract_finding import Finding, broken, holds
from rlx.algorithm.contract_subject import Subject
from rlx.config.classes import parameters_of
from rlx.errors import RlxError
from rlx.loss.hyperparameter import Choice, Range
from rlx.seeding import Stream

STEPS = (0, 1, 500)
SPREADS = (0.4, 2.0, 0.05)
MOST_TRIES = 200


@dataclass(frozen=True)
class Journey:
    """What a few steps with an algorithm did, as text that is equal for equal deeds; `loss` only what it is called."""

    deeds: str
    loss: str


def hyperparameters(subject: Subject) -> Finding:
    """Changing any hyperparameter changes the batch, the gradient, the update or a figure of validate; each is read."""
    known = _Known(subject)
    alive: dict[str, bool] = {}
    only_loss: set[str] = set()
    for name, changed in variants(subject.algorithm):
        if alive.get(name):
            continue
        difference = known.differs(subject.algorithm, changed)
        alive[name] = difference == "deeds"
        if difference == "loss":
            only_loss.add(name)
    silent = [name for name, matters in alive.items() if not matters]
    for name in silent:
        alive[name] = _alive_elsewhere(subject.algorithm, name, known)
    dead = sorted(name for name, matters in alive.items() if not matters)
    if not dead:
        return holds(f"{len(alive)} of {len(alive)}")
    values = {name: value for name, value in leaves(subject.algorithm)}
    if dead[0] in only_loss:
        return broken(
            f"{dead[0]} changes the loss but no gradient: what it weighs is detached",
            number=f"{len(alive) - len(dead)} of {len(alive)}",
            where=f"algorithm.{dead[0]} = {values.get(dead[0])!r}",
            mend="let its term carry a gradient, or take it out",
        )
    return broken(
        f"changing {', '.join(dead)} changes nothing: no batch, no gradient, no update",
        number=f"{len(alive) - len(dead)} of {len(alive)}",
        where=f"algorithm.{dead[0]} = {values.get(dead[0])!r}",
        example=f"{len(STEPS)} steps with other values of it end with the same policy",
        mend="use it (self." + dead[0] + "), or take it out of the class and its YAML",
    )


def _alive_elsewhere(algorithm: Algorithm[Any], name: str, known: _Known) -> bool:
    """Whether it matters once another hyperparameter has another value: an option of what is switched off, say."""
    off = {other for other, value in leaves(algorithm) if not value}
    others = [(other, base) for other, base in variants(algorithm) if other != name]
    for other, base in sorted(others, key=lambda item: item[0] not in off):
        for tried, changed in list(variants(base)):
            if tried == name and known.differs(base, changed, spreads=SPREADS[:1] if other in off else SPREADS[1:2]) == "deeds":
                return True
            if known.tries > MOST_TRIES:
                return _is_read(algorithm, name, known)
    return False


def _is_read(algorithm: Algorithm[Any], name: str, known: _Known) -> bool:
    """Whether a field is looked at in a few steps: all that can be said where trying everything would take too long."""
    return "." in name or name in known.read(algorithm)


class _Known:
    """Journeys, made once for each algorithm and spread."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._journeys: dict[tuple[str, float], Journey] = {}
        self.tries = 0

    def differs(self, one: Algorithm[Any], other: Algorithm[Any], *, spreads: Sequence[float] = SPREADS) -> str:
        """deeds, loss or an empty text: in what two algorithms differ."""
        found = ""
        for spread in spreads:
            first, second = self._journey(one, spread), self._journey(other, spread)
            if first is None or second is None:
                return "deeds" if first is not second else ""
            if first.deeds != second.deeds:
                return "deeds"
            found = "loss" if first.loss != second.loss else found
        return found

    def _journey(self, algorithm: Algorithm[Any], spread: float) -> Journey | None:
        key = (repr(algorithm), spread)
        if key not in self._journeys:
            self.tries += 1
            try:
                self._journeys[key] = journey(self._subject.with_algorithm(algorithm), spread)
            except RlxError as error:  # refused values are a difference like any other
                self._journeys[key] = Journey(str(error), "")
        return self._journeys[key]

    def read(self, algorithm: Algorithm[Any]) -> set[str]:
        """Names of the fields that are looked at in a few steps."""
        seen: set[str] = set()
        kind = type(algorithm)

        def look(owner: Any, name: str) -> Any:
            seen.add(name)
            return kind.__getattribute__(owner, name)

        watched = copy.copy(algorithm)
        object.__setattr__(watched, "__class__", type(kind.__name__, (kind,), {"__getattribute__": look}))
        journey(self._subject.with_algorithm(watched), SPREADS[0])
        return seen


def journey(subject: Subject, spread: float) -> Journey:
    """A few steps of plain gradient descent in a stand-in laboratory, each with its draw, its updates and its validation."""
    setting = subject.stand_in(spread=spread)
    deeds: list[Any] = []
    losses: list[Any] = []
    for step in STEPS:
        lab = setting.lab(step=step, seed=subject.seed)
        with torch.no_grad():
            batch = subject.algorithm.draw(lab)
        deeds.append(signature(batch))
        for number, part in enumerate(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", step)))):
            if number == 3:
                deeds.append("more")
                break
            subject.loss(setting, part)
            source = subject.accumulate(subject.algorithm, setting.policy, setting.reference, part, micro_batch=max(1, len(part)))
            subject.algorithm.update_policy(source, subject.optimizer(setting, rate=3.0))
            deeds.append(signature([*setting.policy.parameters()]))
            losses.append({name: value for name, value in source.metrics.items()})
        with torch.no_grad():
            deeds.append(sorted(subject.algorithm.validate(lab).items()))
    return Journey(repr(deeds), repr(losses))


def leaves(owner: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every plain hyperparameter in a tree of dataclasses."""
    for item in fields(owner) if is_dataclass(owner) else ():
        value = getattr(owner, item.name)
        children = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, child in children:
            name = f"{path}{item.name}" + (f".{key}" if key else "")
            if is_dataclass(child):
                yield from leaves(child, f"{name}.")
            else:
                yield name, child


def variants(owner: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name of a hyperparameter, a copy of `owner` with another legal value of it), several for each."""
    hints = parameters_of(type(owner)) or {}
    for item in fields(owner):
        value = getattr(owner, item.name)
        if isinstance(value, Mapping):
            for key, node in value.items():
                for name, changed in variants(node) if is_dataclass(node) else ():
                    yield from _made(f"{item.name}.{key}.{name}", owner, item.name, {**value, key: changed})
        elif is_dataclass(value):
            for name, changed in variants(value):
                yield from _made(f"{item.name}.{name}", owner, item.name, changed)
        else:
            hint = hints[item.name].hint if item.name in hints else Any
            for other in _others(value, item.metadata.get("range"), hint):
                yield from _made(item.name, owner, item.name, other)


def _made(name: str, owner: Any, field: str, value: Any) -> Iterator[tuple[str, Any]]:
    try:
        yield name, replace(owner, **{field: value})
    except (RlxError, ValueError, TypeError):  # not legal, or not beside the other hyperparameters
        return


def _others(value: Any, allowed: Range | Choice | None, hint: Any) -> list[Any]:
    """Other values that the range or the type allows, near and far."""
    if isinstance(allowed, Choice):
        return [name for name in allowed.names if name != value]
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    literal = [option for kind in kinds if typing.get_origin(kind) is typing.Literal for option in typing.get_args(kind)]
    candidates: list[Any] = [option for option in literal if option != value]
    if isinstance(value, bool):
        candidates.append(not value)
    elif isinstance(value, int):
        candidates += [value + 1, value - 1, 2 * value, max(1, value // 2), 100 * value]
        candidates += [value + 0.5, value / 2] if float in kinds else []
    elif isinstance(value, float):
        candidates += [2 * value, value / 2, value + 0.1, value / 100, 100 * value, value - 0.1, 0.5, 1.5, 0.0]
    elif value is None:
        candidates += [2, 1] if int in kinds else []
        candidates += [0.01, 1e-4, 5.0] if float in kinds else []
        candidates += [True] if bool in kinds else []
    if value is not None and type(None) in kinds:
        candidates.append(None)
    return [other for other in dict.fromkeys(candidates) if other != value and (allowed is None or other in allowed)]
