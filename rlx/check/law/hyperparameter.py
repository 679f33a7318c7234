"""The law that every hyperparameter is read and makes a difference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm, Lab
from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.law.loss import case_of
from rlx.check.law.policy_gradient import FAR
from rlx.check.source import ComputedOnce, LeavesGrewError
from rlx.check.subject import Subject, flat, losses_of
from rlx.check.variant import MOST_ROWS, mentioned, plain_fields, together, variants, watched
from rlx.errors import RlxError
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.rollout.buffer import ReplayBuffer
from rlx.seeding import Stream

STEPS = (0, 1, 500)
LATE = (1_000, 2_000, 4_000, 10_000, 40_000, 100_000)  # where a schedule that has done nothing so far may have begun
SPREADS = (0.4, 2.0, 0.05)
FEW = 2  # other values tried of each of two hyperparameters at once
MOST_TRIES = 240
SAME = 1e-6  # nats; what moves the policy by less moves nothing
RATES = {2.0: 30.0}  # of plain gradient descent, else 3: there a token moves by more than usual clips between two updates
NOTHING, FIGURES, MEASURED, LOSS, LEARNING = "", "figures", "measured", "loss", "learning"
RANK = {name: rank for rank, name in enumerate((NOTHING, FIGURES, MEASURED, LOSS, LEARNING))}
INHERITED = {"updates_per_batch": ("updates",), "max_grad_norm": ("update_policy", "clipping")}  # of Algorithm: who reads each
OF_FIGURES = {  # the first or the last word of the name of an option of figures; "log" too, where its value is no float
    *("threshold", "metric", "metrics", "figure", "figures", "report", "eval", "evaluation", "validation", "monitor", "print"),
    *("logged", "logging", "verbose"),
}


def hyperparameters(subject: Subject) -> Finding:
    """Changing any hyperparameter changes what is learned, or a figure that is logged; each is read."""
    known = Known(subject)
    if refused := known.refusal():
        return skipped(f"no step could be made: {refused}")
    found = _differences(subject.algorithm, known)
    at_first, looked = known.looked_at()
    seen = at_first | looked | mentioned(type(subject.algorithm))
    unread = {
        name for name, _ in plain_fields(subject.algorithm) if not {name, name.rpartition(".")[2]} & seen and not found.get(name)
    }
    detached = sorted(name for name, difference in found.items() if difference == LOSS)
    silent = [name for name, difference in found.items() if difference == NOTHING and name not in unread]
    silent = [name for name in silent if not _alive_late(subject.algorithm, name, known)]
    unreached = {name for name in silent if _is_capacity_of_what_never_fills(subject.algorithm, name, known)}
    silent = [name for name in silent if name not in unreached]
    unsettled = {name: _alive_beside_another(subject.algorithm, name, known) for name in silent}
    spared = {name for name in (*unread, *silent) if _replaced(subject.algorithm, name)}
    idle = {name for name in silent if name in looked and _idle_beside_one_sign(subject, name)}
    dead = sorted({*unread, *(name for name, alive in unsettled.items() if alive is False)} - spared - idle)
    values = dict(plain_fields(subject.algorithm))
    logged = sorted(name for name, what in found.items() if what == FIGURES and not _is_of_figures(name, values.get(name)))
    only_logged = sorted(name for name, what in found.items() if what in (FIGURES, MEASURED) and name not in logged)
    total = len(set(found) | unread)
    without_effect = {*dead, *detached, *logged, *only_logged, *spared, *idle, *unreached}
    number = f"{total - len(without_effect)} of {total}"
    if detached:
        return broken(
            f"{detached[0]} changes the loss but no gradient: what it weighs is detached",
            number=number,
            where=f"algorithm.{detached[0]} = {values.get(detached[0])!r}",
            example=f"with other values of it {len(STEPS)} steps report another loss and end with the same policy",
            mend="let its term carry a gradient (no .detach(), no torch.no_grad()), or take it out",
        )
    if logged:
        return broken(
            f"{logged[0]} changes figures that are logged, but nothing that is learned",
            number=number,
            where=f"algorithm.{logged[0]} = {values.get(logged[0])!r}",
            example=f"with other values of it {len(STEPS)} steps end with the same policy",
            mend="it is missing from the loss; what is meant for figures alone is called so: metric_..., ..._threshold",
        )
    if dead:
        return _dead(dead, unread, values, number)
    undecided = [name for name, alive in unsettled.items() if alive is None and name not in spared | idle]
    notes = [f"not read here: {name}" for name in sorted(spared)] + [f"not seen to matter: {name}" for name in undecided]
    notes += [f"idle, as all advantages have one sign: {name}" for name in sorted(idle)]
    notes += [f"not reached here: {name}" for name in sorted(unreached)]
    notes += [f"only logged: {name}" for name in only_logged]
    return passed("; ".join([number, *notes]))


def _differences(algorithm: Algorithm[Any], known: Known) -> dict[str, str]:
    """The largest difference that another value of each hyperparameter makes.

    After the first few values, those that have shown no learning so far are changed all at once: where even this makes no larger
    difference, none of them does.
    """
    tried: dict[str, list[Algorithm[Any]]] = {}
    for name, changed in variants(algorithm):
        tried.setdefault(name, []).append(changed)
    found = dict.fromkeys(tried, NOTHING)
    for place in range(max(map(len, tried.values()), default=0)):
        waiting = [name for name, others in tried.items() if found[name] != LEARNING and len(others) > place]
        for level in dict.fromkeys(found[name] for name in waiting):
            alike = [name for name in waiting if found[name] == level]
            whole = together(algorithm, alike, place) if place >= FEW and len(alike) > 1 else None
            if whole is not None and RANK[known.difference(algorithm, whole)] <= RANK[level]:
                continue
            for name in alike:
                found[name] = max(known.difference(algorithm, tried[name][place]), found[name], key=RANK.__getitem__)
    return found


def _dead(dead: Sequence[str], unread: set[str], values: Mapping[str, Any], number: str) -> Finding:
    """What to say of hyperparameters that change nothing."""
    name = dead[0]
    cause = f"{name} is never read" if name in unread else f"{name} is read, but what it does cancels out"
    return broken(
        f"changing {', '.join(dead)} changes nothing: no batch, no gradient, no update ({cause})",
        number=number,
        where=f"algorithm.{name} = {values.get(name)!r}",
        example=f"{len(STEPS)} steps with other values of it end with the same policy",
        mend=f"use it (self.{name}), or take it out of the class and its YAML",
    )


def _is_of_figures(name: str, value: Any) -> bool:
    """Whether a hyperparameter is called an option of what is logged."""
    words = name.rpartition(".")[2].split("_")
    return bool({words[0], words[-1]} & OF_FIGURES) or ("log" in (words[0], words[-1]) and not isinstance(value, float))


def _is_capacity_of_what_never_fills(algorithm: Algorithm[Any], name: str, known: Known) -> bool:
    """Whether it sets the capacity of a replay buffer, which no legal value that was tried lets a few steps fill."""
    mine = known.journey(algorithm, SPREADS[0])
    changed = [known.journey(other, SPREADS[0], against=mine) for tried, other in variants(algorithm) if tried == name]
    return any(each.unfilled != mine.unfilled for each in changed if not each.cut and not each.refused)


def _replaced(algorithm: Algorithm[Any], name: str) -> bool:
    """A hyperparameter of every algorithm whose reader this one has replaced by its own, and that its author never set."""
    kind = type(algorithm)
    if all(getattr(kind, reader) is getattr(Algorithm, reader) for reader in INHERITED.get(name, ())):
        return False
    if any(item.name == name and getattr(algorithm, name) != item.default for item in fields(algorithm)):
        return False
    authored = (ancestor for ancestor in kind.__mro__ if not ancestor.__module__.startswith("rlx."))
    return not any(name in vars(ancestor).get("__annotations__", {}) for ancestor in authored)


def _idle_beside_one_sign(subject: Subject, name: str) -> bool:
    """Whether a hyperparameter of a loss matters on random tensors, but all advantages of this algorithm have one sign.

    An end of a clip is idle then: beside an advantage that is never negative nothing is clipped from below.
    """
    owner, _, key = name.rpartition(".")
    losses = {path.removeprefix("algorithm."): loss for path, loss in losses_of(subject.algorithm)}
    loss = losses.get(owner)
    advantages = [
        part.advantages
        for spread in SPREADS
        for part in parts_of(subject.first_update(subject.stand_in(spread=spread, agreeing=True)))
        if isinstance(getattr(part, "advantages", None), Tensor)
    ]
    if not isinstance(loss, PolicyGradientLoss) or not advantages:
        return False
    if any(bool((each < 0).any()) for each in advantages) and any(bool((each > 0).any()) for each in advantages):
        return False
    mine = case_of(loss, spread=FAR).gradients()[1]["token_logprobs"]
    others = (case_of(changed, spread=FAR).gradients()[1] for tried, changed in variants(loss) if tried == key)
    return any(not torch.equal(other["token_logprobs"], mine) for other in others)


def _alive_late(algorithm: Algorithm[Any], name: str, known: Known) -> bool:
    """Whether it matters much later in a run."""
    late = (changed for tried, changed in _few(algorithm) if tried == name)
    return any(
        known.difference(algorithm, changed, spreads=SPREADS[:1], steps=LATE) in (LEARNING, MEASURED, FIGURES) for changed in late
    )


def _alive_beside_another(algorithm: Algorithm[Any], name: str, known: Known) -> bool | None:
    """Whether it matters once another hyperparameter has another value: an option of what is switched off, say.

    None where there are too many to try.
    """
    off = {other for other, value in plain_fields(algorithm) if not value}
    parent = name.rpartition(".")[0]
    others = [(other, base) for other, base in _few(algorithm) if other != name and other.rpartition(".")[2] not in MOST_ROWS]
    others.sort(key=lambda item: (not name.startswith(item[0]), item[0] not in off, item[0].rpartition(".")[0] != parent))
    for other, base in others:
        spreads = SPREADS[:1] if other in off else SPREADS[1:2]
        for tried, changed in _few(base):
            if tried == name and known.difference(base, changed, spreads=spreads) in (LEARNING, MEASURED, FIGURES):
                return True
        if known.tries > MOST_TRIES:
            return None
    return False


def _few(algorithm: Algorithm[Any]) -> Iterator[tuple[str, Algorithm[Any]]]:
    """The first few variants of each hyperparameter."""
    counts: dict[str, int] = {}
    for name, changed in variants(algorithm):
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= FEW:
            yield name, changed


class Known:
    """Journeys and their differences, found once for each algorithm and spread; those of one subject share `subject.journeys`."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._journeys: dict[Any, Journey] = subject.journeys
        self._tried: set[Any] = set()

    @property
    def tries(self) -> int:
        """How many journeys were asked for."""
        return len(self._tried)

    def difference(
        self,
        one: Algorithm[Any],
        other: Algorithm[Any],
        *,
        spreads: Sequence[float] = SPREADS,
        steps: Sequence[int] = STEPS,
    ) -> str:
        """The largest difference between two algorithms at any of these spreads."""
        found = NOTHING
        for spread in spreads:
            mine = self.journey(one, spread, steps)
            difference = mine.difference(self.journey(other, spread, steps, against=mine))
            if difference == LEARNING:
                return LEARNING
            found = max(difference, found, key=RANK.__getitem__)
        return found

    def matters(self, one: Algorithm[Any], other: Algorithm[Any]) -> bool:
        """Whether something else is learned at any spread at which the first one makes a step."""
        legal = [spread for spread in SPREADS if not self.journey(one, spread).refused]
        return any(self.difference(one, other, spreads=[spread]) == LEARNING for spread in legal)

    def journey(
        self, algorithm: Algorithm[Any], spread: float, steps: Sequence[int] = STEPS, *, against: Journey | None = None
    ) -> Journey:
        """The journey of an algorithm; with `against`, no longer than up to the first update that ends elsewhere."""
        key = (repr(algorithm), spread, tuple(steps))
        self._tried.add(key)
        if key not in self._journeys or (self._journeys[key].cut and against is not self._journeys[key].cut):
            try:
                self._journeys[key] = journey(self._subject.with_algorithm(algorithm), spread, steps, against=against)
            except Exception as error:  # torch, say, refuses a value
                # an error of the values as they are set, at early steps, is the algorithm's own
                if steps == STEPS and repr(algorithm) == repr(self._subject.algorithm):
                    raise
                self._journeys[key] = Journey.refused_by(error)
        return self._journeys[key]

    def refusal(self) -> str:
        """What is said where not even the values as they are make a step; empty if they do."""
        journeys = [self.journey(self._subject.algorithm, spread) for spread in SPREADS]
        return journeys[0].refused if all(journey.refused for journey in journeys) else ""

    def looked_at(self) -> tuple[set[str], set[str]]:
        """Dotted names of the fields that the constructor looks at, and of those that a few steps look at."""
        seen: set[str] = set()
        twin = watched(self._subject.algorithm, seen)
        at_first = set(seen)
        seen.clear()
        journey(self._subject.with_algorithm(twin), SPREADS[0])
        return at_first, seen


@dataclass(frozen=True)
class Journey:
    """What a few steps with an algorithm did.

    policy: after each update; loss: before each; figures: what the loss and its updates log, with their names;
    measured: the figures of batches and of validate;
    unfilled: the name and the capacity of each replay buffer that never was full;
    refused: what was said where the values are not legal;
    cut: the journey against which it was made, where it ended at the first update that differs from that one.
    """

    policy: tuple[Tensor, ...]
    loss: tuple[float, ...]
    figures: str
    names: tuple[str, ...]
    measured: str
    unfilled: tuple[tuple[str, int], ...] = ()
    refused: str = ""
    cut: Journey | None = field(default=None, repr=False)

    @staticmethod
    def refused_by(error: Exception) -> Journey:
        """No step could be made."""
        return Journey((), (), "", (), "", refused=f"{type(error).__name__}: {error}")

    def difference(self, other: Journey) -> str:
        """In what two journeys differ: LEARNING; else the LOSS; else what is MEASURED; else FIGURES; else NOTHING."""
        if self.refused != other.refused or len(self.policy) != len(other.policy):
            return LEARNING
        if not all(same(mine, theirs) for mine, theirs in zip(self.policy, other.policy, strict=True)):
            return LEARNING
        if any(not abs(mine - theirs) <= SAME for mine, theirs in zip(self.loss, other.loss, strict=True)):
            return LOSS
        if self.names != other.names or self.measured != other.measured:  # an option of what is logged
            return MEASURED
        return FIGURES if self.figures != other.figures else NOTHING


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two policies, or gradients, are as good as equal."""
    return one.shape == other.shape and bool((one - other).abs().le(SAME).all())


def journey(subject: Subject, spread: float, steps: Sequence[int] = STEPS, *, against: Journey | None = None) -> Journey:
    """A few steps of plain gradient descent in a stand-in laboratory, each with its draw, its updates and its validation.

    against: a journey that made all of its steps; this one ends at the first update that departs from it in what is learned.
    """
    policies: list[Tensor] = []
    losses: list[float] = []
    figures: list[tuple[str, float]] = []
    measured: list[Any] = []
    full: dict[tuple[str, int], bool] = {}
    own_update = type(subject.algorithm).update_policy is not Algorithm.update_policy
    laboratory, rate = subject.stand_in(spread=spread, agreeing=True), 0.1 if subject.goes_past else RATES.get(spread, 3.0)

    def departs(policy: Tensor) -> bool:
        policies.append(policy)
        if against is None or against.refused:
            return False
        place = len(policies) - 1
        return place >= len(against.policy) or not same(against.policy[place], policy)

    try:
        measured.append(subject.algorithm.moving_reference)  # which the training loop asks
        for step in steps:
            lab = _Watched(**vars(laboratory.lab(step=step, seed=subject.seed)), full=full)
            with torch.no_grad():
                batch = subject.algorithm.draw(lab)
            lab.note_full()
            measured += sorted(getattr(batch, "metrics", {}).items())
            for part in _first_updates(subject, batch, step):
                source: Any = subject.source(laboratory, part, comes_again=True)
                source = ComputedOnce(source) if own_update else source
                if own_update and departs(flat(source, laboratory)):  # an own update may read no more of a gradient than its sign
                    return Journey(tuple(policies), (), "", (), "", cut=against)
                done = dict(subject.algorithm.update_policy(source, subject.optimizer(laboratory, rate=rate)))
                subject.states(laboratory).learn(source.record or {})
                if departs(torch.cat([torch.zeros(0), *(leaf.detach().reshape(-1) for leaf in laboratory.policy.parameters())])):
                    return Journey(tuple(policies), (), "", (), "", cut=against)
                _below_one(laboratory.policy)
                losses.append(float(source.metrics.get("loss", 0.0)))
                own = {name: value for name, value in source.metrics.items() if name != "loss" and not name.endswith("_loss")}
                figures += [*sorted(own.items()), *sorted(done.items())]
            with torch.no_grad():
                measured += sorted(subject.algorithm.validate(lab).items())
    except LeavesGrewError:
        return journey(replace(subject, asks_ahead=True), spread, steps, against=against)
    except (RlxError, ValueError) as error:  # values that are refused are a difference like any other
        return Journey.refused_by(error)
    names, shown = tuple(name for name, _ in figures), repr([f"{value:.5g}" for _, value in figures])
    unfilled = tuple(sorted(buffer for buffer, is_full in full.items() if not is_full))
    return Journey(tuple(policies), tuple(losses), shown, names, repr(measured), unfilled)


@dataclass(frozen=True)
class _Watched(Lab):
    """A Lab that notes which replay buffers were full. full: (name, capacity) of each that was asked for."""

    full: dict[tuple[str, int], bool]

    def buffer(self, capacity: int, *, name: str = "buffer") -> ReplayBuffer:
        """The replay buffer, as Lab gives it."""
        self.full.setdefault((name, capacity), False)
        return super().buffer(capacity, name=name)

    def note_full(self) -> None:
        """Note which buffers hold as many groups as they can."""
        for name, capacity in self.full:
            self.full[name, capacity] |= len(super().buffer(capacity, name=name)) >= capacity


def _below_one(policy: Any) -> None:
    """No probability rises above 1, as it never does in a model."""
    leaf = getattr(policy, "leaves", {}).get("token_logprobs")
    if leaf is not None:
        with torch.no_grad():
            leaf.clamp_(max=-1e-3)


def _first_updates(subject: Subject, batch: Any, step: int) -> Iterator[Any]:
    return itertools.islice(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", step))), 3)
