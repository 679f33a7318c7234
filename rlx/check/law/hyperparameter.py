"""The law that every hyperparameter is read and makes a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm
from rlx.algorithm.mixture import Mixture
from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.journey import FIGURES, LEARNING, LOSS, MEASURED, NOTHING, RANK, STEPS, Journey, journey
from rlx.check.law.conflict import mixes_otherwise
from rlx.check.law.loss import case_of
from rlx.check.law.policy_gradient import FAR
from rlx.check.law.step import moved_by
from rlx.check.place import throws_dice
from rlx.check.reads import DRAW, START
from rlx.check.replay import Recording, Run
from rlx.check.stand_in_task import shortened
from rlx.check.subject import Subject, losses_of
from rlx.check.variant import MOST_ROWS, mentioned, plain_fields, together, variants, watched
from rlx.loss.policy_gradient.base import PolicyGradientLoss

LATE = (1_000, 2_000, 4_000, 10_000, 40_000, 100_000)  # steps at which a schedule may have begun
OFTEN = tuple(range(2, 14))  # steps in which a rare effect may occur
SPREADS = (0.4, 2.0, 0.05)
FEW_ROWS, VISITS = 16, tuple(range(10))  # rows of a task and steps, so that each row is drawn three times
LITTLE = 1e-3  # a learning rate
LOWER = 3.0  # nats a token, more than an update raises any
FEW = 2  # other values tried for each of two hyperparameters at once
MOST_TRIES = 240
INHERITED = {"updates_per_batch": ("updates",), "max_grad_norm": ("update_policy", "clipping")}  # field -> its readers
OF_FIGURES = {  # first or last words in names of options that only affect metrics; also "log", unless the value is a float
    *("threshold", "metric", "metrics", "figure", "figures", "report", "eval", "evaluation", "validation", "monitor", "print"),
    *("logged", "logging", "verbose"),
}


def hyperparameters(subject: Subject) -> Finding:
    """Every hyperparameter is read, and changing it changes what is learned or a logged metric."""
    known = Known(subject)
    if refused := known.refusal():
        return skipped(f"no step could be made: {refused}")
    found = _differences(subject.algorithm, known)
    found |= {name: LEARNING for name, what in found.items() if what == FIGURES and _acts_rarely(subject.algorithm, name, known)}
    at_first, looked = known.looked_at()
    seen = at_first | looked | mentioned(type(subject.algorithm))
    unread = {
        name for name, _ in plain_fields(subject.algorithm) if not {name, name.rpartition(".")[2]} & seen and not found.get(name)
    }
    detached = sorted(name for name, difference in found.items() if difference == LOSS)
    silent = [name for name, difference in found.items() if difference == NOTHING and name not in unread]
    silent = [name for name in silent if not _alive_late(subject.algorithm, name, known)]
    silent = _silent_where_rows_come_again(subject, silent)
    silent = [name for name in silent if not _alive_in_an_update(subject, name)]
    unreached = {name for name in silent if _is_capacity_of_what_never_fills(subject.algorithm, name, known)}
    silent = [name for name in silent if name not in unreached]
    unsettled = {name: _alive_beside_another(subject.algorithm, name, known) for name in silent}
    chances = {name for name, alive in unsettled.items() if alive is False and _may_move_a_choice(subject, name, known)}
    unsettled |= dict.fromkeys(chances)
    spared = {name for name in (*unread, *silent) if _replaced(subject.algorithm, name) or _switched_off(subject.algorithm, name)}
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
    """Return the largest difference that other values of each hyperparameter make.

    After the first few values, the hyperparameters that had no effect on learning so far are changed all at once; if even this
    makes no larger difference, none of them does.
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
    """Return the finding about hyperparameters that change nothing."""
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
    """Whether a hyperparameter is named as an option that only affects metrics."""
    words = name.rpartition(".")[2].split("_")
    return bool({words[0], words[-1]} & OF_FIGURES) or ("log" in (words[0], words[-1]) and not isinstance(value, float))


def _is_capacity_of_what_never_fills(algorithm: Algorithm[Any], name: str, known: Known) -> bool:
    """Whether a hyperparameter is the capacity of a replay buffer that a few steps cannot fill with any value tried."""
    mine = known.journey(algorithm, SPREADS[0])
    changed = [known.journey(other, SPREADS[0], against=mine) for _, other in variants(algorithm, name)]
    return any(each.unfilled != mine.unfilled for each in changed if not each.cut and not each.refused)


def _replaced(algorithm: Algorithm[Any], name: str) -> bool:
    """Whether the author never set this field of Algorithm, and the algorithm overrides every method that reads it."""
    kind = type(algorithm)
    if all(getattr(kind, reader) is getattr(Algorithm, reader) for reader in INHERITED.get(name, ())):
        return False
    if any(item.name == name and getattr(algorithm, name) != item.default for item in fields(algorithm)):
        return False
    authored = (ancestor for ancestor in kind.__mro__ if not ancestor.__module__.startswith("rlx."))
    return not any(name in vars(ancestor).get("__annotations__", {}) for ancestor in authored)


def _switched_off(algorithm: Algorithm[Any], name: str) -> bool:
    """Whether a hyperparameter belongs to a term of a mixture that is never drawn, since its weight is set to 0."""
    term, _, own = name.removeprefix("terms.").partition(".")
    terms = algorithm.terms if isinstance(algorithm, Mixture) else {}
    return term in terms and not terms[term].is_drawn and own not in ("weight", "final_weight")


def _idle_beside_one_sign(subject: Subject, name: str) -> bool:
    """Whether a loss's hyperparameter has an effect on random tensors, while this algorithm's advantages have one sign.

    One bound of a clip has then no effect: without negative advantages nothing is clipped at the lower bound.
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


def _may_move_a_choice(subject: Subject, name: str, known: Known) -> bool:
    """Whether only draw reads it, and draw chooses at random by lab.state; a few steps may then choose the same by chance."""
    changed = next((other for tried, other in variants(subject.algorithm, name) if tried == name), None)
    if changed is None or not known.phases(changed) <= {DRAW, START}:
        return False
    laboratory = subject.stand_in()
    return throws_dice(lambda: subject.draw(laboratory)) and bool(laboratory.state)


def _alive_late(algorithm: Algorithm[Any], name: str, known: Known) -> bool:
    """Whether a hyperparameter has an effect late in a run, or, if it is a count of attempts, in one of many steps."""
    value = dict(plain_fields(algorithm)).get(name)
    counts = isinstance(value, int) and not isinstance(value, bool)
    late = variants(algorithm, name) if counts else _few(algorithm, name)
    steps = (*LATE, *OFTEN) if counts else LATE
    return any(
        known.difference(algorithm, changed, spreads=SPREADS[:1], steps=steps) in (LEARNING, MEASURED, FIGURES)
        for _, changed in late
    )


def _acts_rarely(algorithm: Algorithm[Any], name: str, known: Known) -> bool:
    """Whether a hyperparameter changes what is learned in one of many steps; the first steps may hold no row it affects."""
    return any(
        known.difference(algorithm, changed, spreads=SPREADS[:1], steps=OFTEN) == LEARNING for _, changed in _few(algorithm, name)
    )


def _silent_where_rows_come_again(subject: Subject, names: Sequence[str]) -> list[str]:
    """Return the hyperparameters without an effect when draws repeat rows of earlier ones, as state kept of a row requires.

    Two runs are made: one in which the policy learns the rows, and one in which their log-probabilities fall from draw to draw.
    """
    laboratory = subject.stand_in()
    if names:
        subject.draw(laboratory)
    if not laboratory.state:
        return list(names)
    few = subject.with_algorithm(subject.algorithm)
    few.__dict__.update(small_task=shortened(subject.small_task, rows=FEW_ROWS), journeys={})
    found = list(names)
    for lower in (0.0, LOWER):
        few.__dict__["journeys"] = {}
        again = Known(few, lower=lower)
        with suppress(Exception):  # a draw may need more rows than there are
            for name in list(found):
                changed = [other for _, other in _few(subject.algorithm, name)]
                tried = (again.difference(subject.algorithm, other, spreads=SPREADS[:1], steps=VISITS) for other in changed)
                if any(difference in (LEARNING, MEASURED, FIGURES) for difference in tried):
                    found.remove(name)
    return found


def _alive_in_an_update(subject: Subject, name: str) -> bool:
    """Whether a user's update_policy makes another update from conflicting gradients, or from gradients of the real model.

    If the loss is linear in log-probabilities, its gradient is the same at all weights of a stand-in, but not at those of a
    model.
    """
    if type(subject.algorithm).update_policy is Algorithm.update_policy:
        return False
    with suppress(Exception):  # update_policy may need other gradients than those of single terms
        if any(mixes_otherwise(subject, subject.with_algorithm(other)) for _, other in _few(subject.algorithm, name)):
            return True
    source = moved_by(subject, LITTLE)[2].source
    if source is None or source.times == source.most_at_once:  # it computes no gradient at other weights
        return False
    model = subject.with_algorithm(subject.algorithm)
    model.__dict__.update(goes_past=True, journeys={})
    known = Known(model)
    tried = (other for _, other in variants(subject.algorithm, name))
    return any(known.difference(subject.algorithm, other, spreads=SPREADS[:1], steps=STEPS[:1]) == LEARNING for other in tried)


def _alive_beside_another(algorithm: Algorithm[Any], name: str, known: Known) -> bool | None:
    """Whether it has an effect once another hyperparameter has another value (an option of a feature that is off, say).

    Return None if there are too many to try.
    """
    off = {other for other, value in plain_fields(algorithm) if not value}
    parent = name.rpartition(".")[0]
    others = [(other, base) for other, base in _few(algorithm) if other != name and other.rpartition(".")[2] not in MOST_ROWS]
    mine = next((known.phases(changed) for tried, changed in _few(algorithm) if tried == name), set())
    others.sort(
        key=lambda item: (
            not name.startswith(item[0]),
            not mine & known.phases(item[1]),  # those that one phase reads may act together
            item[0] not in off,
            item[0].rpartition(".")[0] != parent,
        )
    )
    for other, base in others:
        spreads = SPREADS[:1] if other in off else SPREADS[1:2]
        for _, changed in _few(base, name):
            if known.difference(base, changed, spreads=spreads) in (LEARNING, MEASURED, FIGURES):
                return True
        if known.tries > MOST_TRIES:
            return None
    return False


def _few(algorithm: Algorithm[Any], only: str | None = None) -> Iterator[tuple[str, Algorithm[Any]]]:
    """Yield the first FEW variants of each hyperparameter, or of one."""
    counts: dict[str, int] = {}
    for name, changed in variants(algorithm, only):
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= FEW:
            yield name, changed


class Known:
    """Cached journeys and their differences, for each algorithm and spread; those of one subject share `subject.journeys`."""

    def __init__(self, subject: Subject, *, lower: float = 0.0) -> None:
        self._subject = subject
        self._lower = lower  # nats by which all log-probabilities fall after each update
        self._journeys: dict[Any, Journey] = subject.journeys
        self._tried: set[Any] = set()

    @property
    def tries(self) -> int:
        """How many different journeys were requested."""
        return len(self._tried)

    def difference(
        self, one: Algorithm[Any], other: Algorithm[Any], *, spreads: Sequence[float] = SPREADS, steps: Sequence[int] = STEPS
    ) -> str:
        """Return the largest difference between two algorithms at any of these spreads."""
        found = NOTHING
        for spread in spreads:
            mine = self.journey(one, spread, steps)
            difference = mine.difference(self.journey(other, spread, steps, against=mine))
            if difference == LEARNING:
                return LEARNING
            found = max(difference, found, key=RANK.__getitem__)
        return found

    def matters_at_first(self, one: Algorithm[Any], other: Algorithm[Any]) -> bool:
        """Whether the first step learns something different at any spread at which the first algorithm makes a step."""
        made = {spread: self.journey(one, spread) for spread in SPREADS}
        return any(
            mine.departs_at_first(self.journey(other, spread, against=mine)) for spread, mine in made.items() if not mine.refused
        )

    def journey(
        self, algorithm: Algorithm[Any], spread: float, steps: Sequence[int] = STEPS, *, against: Journey | None = None
    ) -> Journey:
        """Return the journey of an algorithm; with `against`, it ends at the first update that differs from that journey."""
        key = (repr(algorithm), spread, tuple(steps))
        self._tried.add(key)
        if key not in self._journeys or (self._journeys[key].cut and against is not self._journeys[key].cut):
            try:
                self._journeys[key] = self._made(algorithm, spread, steps, against)
            except Exception as error:  # such as an error of torch for a value
                # at early steps and with its own values, the error is the algorithm's
                if steps == STEPS and repr(algorithm) == repr(self._subject.algorithm):
                    raise
                self._journeys[key] = Journey.refused_by(error)
        return self._journeys[key]

    def refusal(self) -> str:
        """Return the error if the algorithm makes no step even with its own values; empty if it does."""
        journeys = [self.journey(self._subject.algorithm, spread) for spread in SPREADS]
        return journeys[0].refused if all(journey.refused for journey in journeys) else ""

    def phases(self, algorithm: Algorithm[Any]) -> set[str]:
        """Return the phases that read an attribute in which `algorithm` differs from the one under check; empty if unknown."""
        recorded = self.journey(self._subject.algorithm, SPREADS[0]).recorded
        return (recorded.reading(algorithm) if recorded is not None else None) or set()

    def looked_at(self) -> tuple[set[str], set[str]]:
        """Return the dotted names of the fields that the constructor reads, and of those that a few steps read."""
        seen: set[str] = set()
        twin = watched(self._subject.algorithm, seen)
        at_first = set(seen)
        recorded = self.journey(self._subject.algorithm, SPREADS[0]).recorded
        if recorded is not None and recorded.reads is not None:
            return at_first, recorded.reads.names
        seen.clear()
        journey(self._subject.with_algorithm(twin), SPREADS[0])
        return at_first, seen

    def _made(self, algorithm: Algorithm[Any], spread: float, steps: Sequence[int], against: Journey | None) -> Journey:
        """Compute a journey. That of the algorithm under check is recorded; the others reuse its equal phases."""
        subject = self._subject.with_algorithm(algorithm)
        recorded = against.recorded if against is not None else None
        if against is not None and recorded is not None and recorded.is_untouched_by(algorithm):
            return against
        if recorded is not None:
            return journey(subject, spread, steps, against=against, run=Run(like=recorded, algorithm=algorithm))
        if against is not None or self._lower or repr(algorithm) != repr(self._subject.algorithm):
            return journey(subject, spread, steps, against=against, lower=self._lower)
        recording = Recording(algorithm)
        made = journey(subject, spread, steps, run=Run(into=recording))
        if made.refused:
            return made

        def again(twin: Any, run: Run) -> bool:
            other = journey(self._subject.with_algorithm(twin), spread, steps, run=run)
            equal = len(other.policy) == len(made.policy) and all(map(torch.equal, other.policy, made.policy))
            return equal and made.difference(other) == NOTHING

        recording.watch(algorithm, again)
        return replace(made, recorded=recording)
