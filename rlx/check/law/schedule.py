"""Part of the law of draws, on schedules: a weight keeps its sign and does not grow forever; a cosine ends at an angle of pi."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject
from rlx.check.variant import plain_fields

LATER = (10, 100, 1000, 100_000)  # steps at which weights are compared with step 0
MANY = range(200, 264)  # further steps, as a batch may hold nothing to learn from
GROWN = 30.0  # factor between the last two of these steps; a weight proportional to the step grows by a factor of 100
ANGLES = (1.0, 2.0, 0.5)  # angles in radians at which a cosine without pi ends
CURVES = {math.cos: "cosine", math.sin: "sine"}
POINTS = 8  # points of a schedule that are compared with a cosine
PERIODIC = re.compile("cycl|period|restart|oscillat")  # words for a periodic schedule
NEARLY_STRAIGHT = 1.9  # see _comes_again; 2 is a straight line
SAME = 1e-6  # relative difference of levels that count as equal
ALONG = 1e-4  # largest distance of a schedule from a curve, relative to its range


@dataclass(frozen=True)
class _Level:
    """The smallest and the largest weight of a term and their sum, times its coefficient."""

    low: float
    high: float
    total: float


Levels = Mapping[str, _Level]  # term -> its level


def schedules(subject: Subject) -> Finding | None:
    """Return a finding if weights of a term at later steps are negative, grow without limit, or follow a wrong cosine."""
    found = {step: _levels(subject, step) for step in (0, *LATER)}
    grown = _turns_negative(found) or _grows_without_end(found)
    return grown or _never_again(subject) or _comes_again(subject, found) or _without_pi(subject, found)


def _never_again(subject: Subject) -> Finding | None:
    """Return a finding if the policy learns at step 0 and at no later step."""
    for step in (*LATER, *MANY, 0):
        laboratory, batch = subject.stand_in_batch(step=step)
        if subject.goes_past or len(batch) == 0:
            return None
        gradient, _ = subject.gradient(laboratory, batch)
        learns = bool(gradient[: len(laboratory.policy.leaves.get("token_logprobs", ()))].any())
        if learns != (step == 0):
            return None
    return broken(
        f"the policy learns at step 0, and nothing at {len(LATER) + len(MANY)} steps from {LATER[0]} to {LATER[-1]}",
        number=f"0 of {len(LATER) + len(MANY)} steps",
        where="draw",
        mend="look which way a step is compared: a warm-up is over where lab.step >= warmup",
    )


def _turns_negative(found: Mapping[int, Levels]) -> Finding | None:
    """Return a finding if the weights of a term, positive at first, are all negative at a later step."""
    first = found[0]
    if not first or any(level.low < 0 for level in first.values()):
        return None
    for step in LATER:
        for name, level in found[step].items():
            if level.low < 0 >= level.high and name in first and first[name].high > 0:
                return broken(
                    f"the weights of the term {name} are positive at step 0 (up to {first[name].high:.3g}) and negative at step "
                    f"{step} (down to {level.low:.3g}): there it unlearns what it has taught",
                    number=f"{level.low:.2g}",
                    where="the weights that draw makes",
                    mend="a schedule ends where it shall: max(0.0, 1 - lab.step / steps), min(1.0, lab.step / steps)",
                )
    return None


def _grows_without_end(found: Mapping[int, Levels]) -> Finding | None:
    """Return a finding if the weights of a term grow with the step without limit."""
    before, last = LATER[-2:]
    for name, level in found[last].items():
        earlier = found[before][name].high if name in found[before] else 0.0
        if earlier > 0 and level.high > GROWN * earlier:
            return broken(
                f"the weights of the term {name} grow without an end: up to {earlier:.3g} at step {before}, {level.high:.3g} at "
                f"step {last}",
                number=f"{level.high:.2g}",
                where="the weights that draw makes",
                mend="a schedule ends where it shall: min(1.0, (lab.step + 1) / steps); max(...) or // never stop it",
            )
    return None


def _comes_again(subject: Subject, found: Mapping[int, Levels]) -> Finding | None:
    """Return a finding if the weights of a term are periodic, unless the algorithm's docstring or fields say so.

    At equally spaced points of a wave, each difference times a constant below 2 is the sum of its two neighbouring differences.
    """
    said = f"{inspect.getdoc(type(subject.algorithm))} {' '.join(name for name, _ in plain_fields(subject.algorithm))}"
    for name, start in found[0].items() if not PERIODIC.search(said.lower()) else ():
        if all(abs(levels[name].total - start.total) <= SAME * abs(start.total) for levels in found.values() if name in levels):
            continue
        for apart in (1, 3, 10, 30, 100, 300):
            steps = [LATER[-1] + apart * place for place in range(POINTS)]
            each = [levels[name].total for levels in (_levels(subject, step) for step in steps) if name in levels]
            moved = torch.tensor(each, dtype=torch.float64).diff()
            if len(moved) < POINTS - 1 or float(moved.abs().max()) <= SAME * max(map(abs, each)):
                break
            sums, middle = moved[2:] + moved[:-2], moved[1:-1]
            twice = float((sums @ middle) / (middle @ middle))
            if float((sums - twice * middle).abs().max()) > ALONG * float(moved.abs().max()) or (apart == 1 and twice < 1):
                break  # not a wave, or alternating terms
            if abs(twice) > NEARLY_STRAIGHT:
                continue
            return broken(
                f"the weights of the term {name} follow a wave that goes on for ever: what they were comes again every "
                f"{2 * math.pi * apart / math.acos(twice / 2):.4g} steps",
                number=f"{each[0]:.3g}",
                where="the weights that draw makes",
                mend="a schedule ends where it shall: 0.5 * (1 + math.cos(math.pi * min(1.0, lab.step / steps))); one that comes "
                "again on purpose says so: a field named period or cycle",
            )
    return None


def _without_pi(subject: Subject, found: Mapping[int, Levels]) -> Finding | None:
    """Return a finding if the weights of a term follow a cosine or sine that ends at an angle such as 1, not pi."""
    for name, start in found[0].items():
        end = found[LATER[-1]].get(name, start).total
        if abs(end - start.total) <= SAME * max(abs(end), abs(start.total)):
            continue
        off = SAME * abs(end - start.total)
        lower, upper = 0, LATER[-1]  # steps before and after the schedule's end
        while upper - lower > 1:
            middle = (lower + upper) // 2
            here = _levels(subject, middle)
            ended = name in here and abs(here[name].total - end) <= off
            lower, upper = (lower, middle) if ended else (middle, upper)
        steps = sorted({round(upper * place / POINTS) for place in range(POINTS + 1)})
        each = [_levels(subject, step) for step in steps] if len(steps) > POINTS // 2 else []
        levels = [here[name].total for here in each if name in here]
        if len(levels) < len(steps) or not levels:
            continue
        for angle, curve in ((angle, curve) for angle in ANGLES for curve in CURVES):
            if _lies_along(levels, [curve(angle * step / upper) for step in steps]):
                return broken(
                    f"the weights of the term {name} follow a {CURVES[curve]} up to an "
                    f"angle of {angle:g} at step {upper}, where they stop, at {end / start.total if start.total else end:.3g} "
                    "of what they were: a half turn is pi, a quarter pi / 2",
                    number=f"{end:.3g}",
                    where="the weights that draw makes",
                    mend="a half cosine from 1 to 0 is 0.5 * (1 + math.cos(math.pi * min(1.0, lab.step / steps)))",
                )
    return None


def _lies_along(levels: list[float], curve: list[float]) -> bool:
    """Whether numbers are on a curve, apart from a factor and an offset."""
    y, x = (torch.tensor(each, dtype=torch.float64) for each in (levels, curve))
    x, y = x - x.mean(), y - y.mean()
    rest = y - (x @ y) / (x @ x) * x
    return bool(rest.abs().max() <= ALONG * (y.max() - y.min()))


def _levels(subject: Subject, step: int) -> Levels:
    laboratory, batch = subject.stand_in_batch(step=step)
    if len(batch) == 0:
        return {}
    found = {}
    for name, term in subject.loss(laboratory, batch).terms.items():
        weights = term.coefficient * term.weights.detach()
        ends = (float(weights.min()), float(weights.max())) if weights.numel() else (0.0, 0.0)
        found[name] = _Level(*ends, float(weights.double().sum()))
    return found
