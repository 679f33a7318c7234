"""Part of the law of draws, on numbers kept from draw to draw: a weight reacts to what it weighs, a decay keeps its share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rlx.check.batch import at, key_of, parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject
from rlx.check.variant import plain_fields, variants
from rlx.errors import RlxError

DECAYS = {"decay", "momentum"}  # words in the names of the share of an average that is kept
FACTORS = (1.0, 1.5, 2.0)  # of a kept number
DRIFT = 1.0  # nats a token by which the reference is lower
RAISED = 0.05  # nats a token
ENTROPIES = (0.0, 5.0)
STEP = 1  # of the draws that start from a kept number
SAME = 1e-4
FLAT = 1e-9


def feedback(subject: Subject) -> Finding | None:
    """Return a finding if a kept weight falls as what it penalises rises, or if an average keeps 1 - decay of what it was."""
    if subject.goes_past:
        return None
    laboratory = subject.stand_in(spread=0.0)
    subject.draw(laboratory)
    kept = {name: value.clone() for name, value in laboratory.state.items() if value.is_floating_point() and value.ndim < 2}
    if not kept or not isinstance(laboratory.policy, StandInPolicy):
        return None
    for name, value in kept.items():
        try:
            found = _keeps_the_rest(subject, name) or (_runs_away(subject, name, value) if value.numel() == 1 else None)
        except (RlxError, ValueError, RuntimeError) as error:  # for a number that the algorithm never reaches
            subject.untried.append(f"other numbers in lab.state[{name!r}] ({type(error).__name__}: {error})")
            continue
        if found is not None:
            return found
    return None


def _drawn(subject: Subject, name: str, value: Tensor, **numbers: Any) -> tuple[Laboratory, Any]:
    """Return (a laboratory after a draw, the first update) from a state with this number of this name."""
    laboratory = subject.stand_in(**{"spread": 0.0, **numbers})
    subject.draw(laboratory)
    laboratory.state[name] = value.clone()
    return laboratory, subject.first_update(laboratory, step=STEP)


def _keeps_the_rest(subject: Subject, name: str) -> Finding | None:
    """Return a finding if what is left of a kept number at the next draw is 1 - decay, for all decays tried."""
    decays = [key for key, each in plain_fields(subject.algorithm) if isinstance(each, float) and 0.5 < each < 1]
    for key in (key for key in decays if set(key.rpartition(".")[2].split("_")) & DECAYS):
        shares = []
        for algorithm in (subject.algorithm, *(other for _, other in variants(subject.algorithm, key))):
            decay, twin = dict(plain_fields(algorithm))[key], subject.with_algorithm(algorithm)
            laboratory = twin.stand_in(spread=0.0)
            twin.draw(laboratory)
            value = laboratory.state.get(name)
            ends = [] if value is None else [_drawn(twin, name, value + by)[0].state[name].double() for by in (0.0, 1.0)]
            if len(ends) != 2 or ends[0].shape != ends[1].shape:
                return None
            left = (ends[1] - ends[0]).flatten()
            left = left[((left - 1).abs() > SAME) | (left.abs() > SAME)] if left.numel() == 1 else left[(left - 1).abs() > SAME]
            if not left.numel() or bool((left - (1 - decay)).abs().gt(SAME).any()):
                break
            shares.append((decay, float(left[0])))
        else:
            if len({decay for decay, _ in shares}) > 1:
                decay, left_over = shares[0]
                return broken(
                    f"with {key} = {decay:g} the next draw keeps {left_over:.3g} of lab.state[{name!r}]: the average is that of "
                    "the last draw, nearly, and the share that is kept and that of the new are exchanged",
                    number=f"{left_over:.3g}",
                    where="draw",
                    mend=f"a running mean is {key} * before + (1 - {key}) * new",
                )
    return None


def _runs_away(subject: Subject, name: str, value: Tensor) -> Finding | None:
    """Return a finding if a kept weight of a KL or an entropy reacts to it the wrong way."""
    value = value if bool(value.any()) else value + 0.01
    pulls = [_pulls(subject, name, factor * value) for factor in FACTORS]
    for what in ("KL to the reference", "entropy"):
        strengths = [pull.get(what, 0.0) for pull, _ in pulls]
        steps = [after - before for before, after in pairwise(strengths)]
        same = all(others.shape == pulls[0][1].shape and torch.allclose(others, pulls[0][1]) for _, others in pulls)
        if not same or abs(steps[0]) <= FLAT or abs(steps[1] - steps[0]) > SAME * abs(steps[0]):
            continue  # it is no weight of this
        ends = []
        for level in (0, 1):
            if what == "entropy":
                ends.append(_at_entropy(subject, name, value, ENTROPIES[level]))
            else:
                ends.append(float(_drawn(subject, name, value, drift=level * DRIFT)[0].state[name]))
        along = (ends[1] - ends[0]) * (1 if steps[0] * float(value.sum()) > 0 else -1)
        if along >= -FLAT * abs(float(value.sum())):
            continue
        goes = "falls" if ends[1] < ends[0] else "rises"
        return broken(
            f"lab.state[{name!r}] weighs the {what}, and {goes} from {ends[0]:.4g} to {ends[1]:.4g} where that is larger: the "
            "further it is from its target, the further it is driven away",
            number=f"{ends[1] - ends[0]:+.1e}",
            where="draw",
            mend="the weight of a penalty rises while what it penalises is above its target: coef * (1 + rate * (kl - target)); "
            "that of a bonus rises while it is below",
        )
    return None


def _at_entropy(subject: Subject, name: str, value: Tensor, entropy: float) -> float:
    """Return the number that a draw leaves where the policy's entropy at every token is this one."""
    laboratory, _ = _drawn(subject, name, value)
    if "entropy" not in laboratory.policy.leaves:  # draw does not read it
        return 0.0
    with at(laboratory.policy.leaves["entropy"], entropy):
        laboratory.state[name] = value.clone()
        subject.draw(laboratory, step=STEP)
    return float(laboratory.state[name])


def _pulls(subject: Subject, name: str, value: Tensor) -> tuple[Mapping[str, float], Tensor]:
    """Return (how strongly an update lowers the KL, and the entropy; the gradient where policy and reference agree)."""
    laboratory, batch = _drawn(subject, name, value)
    part = next(iter(parts_of(batch)), None)
    if part is None or len(batch) == 0:
        return {}, torch.zeros(0)
    gradient, _ = subject.gradient(laboratory, batch)
    names = laboratory.policy.leaf_names
    sizes = [len(laboratory.policy.leaves[each]) for each in names]
    slopes = {each: float(slope.sum()) for each, slope in zip(names, torch.split(gradient, sizes), strict=True)}
    key = max(
        (key_of(prompt, group[0]) for prompt, group in zip(part.sequences.prompts, part.sequences.completions, strict=True)),
        key=lambda key: len(key[1]),
    )
    laboratory.reference.raised = {key: RAISED}
    laboratory.state[name] = value.clone()
    again = subject.first_update(laboratory, step=STEP)
    moved, _ = subject.gradient(laboratory, again)
    place = laboratory.policy.places["token_logprobs"].get(key, slice(0, 0))
    pull = float((gradient[place] - moved[place]).sum()) + sum(slope for each, slope in slopes.items() if each.startswith("kl_"))
    return {"KL to the reference": pull, "entropy": slopes.get("entropy", 0.0)}, gradient[: sizes[0]]
