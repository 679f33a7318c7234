"""The law of an update: it descends the loss, as the optimiser and the clipping define, with the gradient of every term."""

from __future__ import annotations

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.law.conflict import conflict
from rlx.check.law.step import moved_by, with_clip
from rlx.check.subject import Subject
from rlx.check.variant import plain_fields, variants

RATES = (0.0, 1e-3)  # learning rates of plain gradient descent
UPWARD = 1e-6  # largest cosine of an update that does not raise the loss
NARROW = 1e-3  # a small clip, relative to the gradient's norm
SAME = 1e-3  # relative difference of lengths that count as equal
TINY = 1e-6  # factor of gradients below every clip
EXACT = 1e-9  # relative difference of numbers that are equal apart from rounding


def update(subject: Subject) -> Finding:
    """An update descends the gradient of its loss, with every term once and clipped as declared."""
    own = type(subject.algorithm).update_policy is not Algorithm.update_policy
    if own and (kept := _remembers(subject)) is not None:
        return kept
    cosines = []
    for rate in RATES:
        moved, gradient, _ = moved_by(subject, rate)
        if not bool(gradient.any()):
            return skipped("the loss has no gradient here; see reached")
        scale = float(moved.norm() * gradient.norm())
        cosines.append(float(moved @ gradient) / scale if scale else 0.0)
        if cosines[-1] > UPWARD:
            return _upward(cosines[-1], rate)
    if own:
        for fault in (_twice, _unclipped, _by_rows, _without_a_term, _added_again, _weighs_again, _one_sided, conflict):
            if (found := fault(subject)) is not None:
                return found
    return passed(f"{cosines[-1]:.2g}")


def _remembers(subject: Subject) -> Finding | None:
    """Return a finding if an update stores anything outside the optimiser's state that changes the next update."""
    try:
        first, _, optimizer = moved_by(subject, RATES[1])
        again, _, _ = moved_by(subject, RATES[1])
        if torch.equal(first, again):  # stored values may not change an update on the same batch
            for other in ({"factors": dict.fromkeys(_totals(subject), -2.0)}, {"rows": 1}):
                moved_by(subject, RATES[1], **other)
                again = moved_by(subject, RATES[1])[0] if torch.equal(first, again) else again
    except RuntimeError as error:
        if "size" not in str(error):
            raise
        return _kept(f"an update meets what one of another batch left behind ({error})")
    if not torch.equal(first, again):
        off = float((again - first).norm() / first.norm().clamp(min=1e-300))
        return _kept(f"the same update, with a fresh optimiser, moves the policy elsewhere later on ({off:.2g} of its length)")
    added = sorted(vars(optimizer).keys() - optimizer.usual)
    return _kept(f"an update leaves optimizer.{added[0]} behind") if added else None


def _kept(wrong: str) -> Finding:
    return broken(
        f"{wrong}: update_policy keeps something of its own (a momentum, an average, a counter), which no checkpoint holds",
        where="update_policy",
        mend="leave what must last to the optimiser, whose state is in the checkpoint: optimizer=sgd optimizer.momentum=0.9; "
        "else a resumed run goes another way",
    )


def _upward(cosine: float, rate: float) -> Finding:
    if rate:
        wrong = f"an update moves the policy up its loss (the cosine with the gradient is {cosine:+.2f}, it must be negative)"
        mend = "the optimiser goes down by itself: give it the gradient of the loss, not its negative"
    else:
        wrong = "an update at a learning rate of 0 moves the policy, and up its loss"
        mend = "what is added to the weights on the way is taken away again before optimizer.step(...)"
    return broken(wrong, number=f"{cosine:+.2f}", where="update_policy", mend=mend)


def _twice(subject: Subject) -> Finding | None:
    """Return a finding if parameters make several steps by gradients at the same weights, or one step for each term."""
    _, _, optimizer = moved_by(subject, RATES[1])
    seen: set[int] = set()
    taken = 0
    for (gradients, _), times in zip(optimizer.given, optimizer.taken_for, strict=True):
        seen, taken = (seen if times == taken else set()), times
        stepped = {place for place, part in enumerate(gradients) if part is not None and bool(part.any())}
        if seen & stepped:
            return broken(
                f"the optimiser steps {len(optimizer.given)} times in one update, twice by gradients of the same weights: as if "
                "the learning rate were higher, and Adam makes a step of the same size of each, however small its coefficient",
                number=f"{len(optimizer.given)} steps",
                where="update_policy",
                mend="add the gradients of the terms and call optimizer.step(...) once; before another step take them anew, "
                "gradients(), or let updates_per_batch make more updates of a draw",
            )
        seen |= stepped
    return None


def _unclipped(subject: Subject) -> Finding | None:
    """Return a finding if a step is longer than max_grad_norm allows for all terms together: another clip is used, or none."""
    if type(subject.algorithm).clipping is not Algorithm.clipping:
        return None
    terms = _totals(subject)
    for real in (False, True):  # a stand-in has one tensor, so a clip of each tensor does not show
        wide, gradient, optimizer = moved_by(subject, RATES[1], real=real)
        limit = NARROW * float(gradient.norm())
        if (narrow := with_clip(subject, limit)) is None:
            return None
        moved, again, clipped = moved_by(narrow, RATES[1], real=real)
        steps, whole = max(1, len(clipped.given)), RATES[1] * float(again.norm())
        still = moved_by(narrow, RATES[1], factors=dict.fromkeys(terms, 0.0), real=real)[0]  # a weight decay, say
        length, allowed = float((moved - still).norm()), RATES[1] * limit * steps
        if not optimizer.given and abs(float(moved.norm()) - whole) <= SAME * whole:  # a step declares its clip
            wrong, mend = (
                "max_grad_norm is not applied: an update moves the policy by",
                (
                    "step by optimizer.step(gradients()['loss'], self.clipping); where there shall be no clip, say so: "
                    "optimizer.step(gradients, Clipping(max_grad_norm=None))"
                ),
            )
            break
        if torch.equal(moved, wide):
            return _clipped_by_a_constant(subject)
        if length > (len(terms) + SAME) * allowed:
            wrong = "max_grad_norm is not the Euclidean norm of all gradients together: an update moves the policy by"
            mend = "step by optimizer.step(gradients, self.clipping); a clip of single entries has a name of its own"
            break
        if any(clipping.max_grad_norm is not None for _, clipping in clipped.given):  # the declared clip is correct
            return None
    else:
        return None
    return broken(
        f"{wrong} {length:.3g} where the clip allows {allowed:.3g}",
        number=f"{length:.3g}",
        where="update_policy",
        example=f"max_grad_norm = {limit:.3g}, gradient norm {float(gradient.norm()):.3g}, learning rate {RATES[1]:g}",
        mend=mend,
    )


def _clipped_by_a_constant(subject: Subject) -> Finding | None:
    """Return a finding if steps are clipped at one norm, whatever gradient, max_grad_norm and other hyperparameters are."""

    def norms(twin: Subject, factor: float = 1.0) -> set[float | None]:
        optimizer = moved_by(twin, RATES[1], factors=dict.fromkeys(_totals(twin), factor))[2]
        return {clipping.max_grad_norm for _, clipping in optimizer.given}

    usual = norms(subject)
    if len(usual) != 1 or None in usual or norms(subject, 2.0) != usual:
        return None
    if any(norms(subject.with_algorithm(other)) != usual for _, other in variants(subject.algorithm)):
        return None
    (norm,) = usual
    return broken(
        f"gradients are clipped at {norm:g} whatever max_grad_norm is, a hyperparameter that rlx train takes all the same",
        number=f"{norm:g}",
        where="update_policy",
        mend="self.clipping has the number: optimizer.step(gradients()['loss'], self.clipping)",
    )


def _by_rows(subject: Subject) -> Finding | None:
    """Return a finding if the length of a step depends on the number of rows beyond what the gradient does."""
    if (unclipped := with_clip(subject, None)) is None:
        return None
    factors = []
    sizes = [len(subject.first_update(subject.stand_in()))]
    sizes.append(sizes[0] // 2)
    for rows in sizes:
        if rows < 1:
            return None
        moved, gradient, _ = moved_by(unclipped, RATES[1], rows=rows)
        length = RATES[1] * float(gradient.norm())
        scale = float(moved.norm() * gradient.norm())
        if not scale or float(moved @ gradient) / scale > SAME - 1:  # the update does more than scale the gradient
            return None
        factors.append(float(moved.norm()) / length)
    if all(abs(factors[0] / factors[1] - share) > SAME for share in (sizes[0] / sizes[1], sizes[1] / sizes[0])):
        return None
    return broken(
        f"an update of {sizes[0]} rows moves the policy {factors[0]:.3g} times as far as its gradient says, one of {sizes[1]} "
        f"{factors[1]:.3g} times: it is scaled by the size of the batch",
        number=f"{factors[0]:.3g}",
        where="update_policy",
        mend="take the gradient as it is: the weights of a loss have divided by the number of rows",
    )


def _without_a_term(subject: Subject) -> Finding | None:
    """Return a finding if the gradient of a term has no effect on the update."""
    terms = _totals(subject)
    if len(terms) < 2:
        return None
    plain, _, _ = moved_by(subject, RATES[1])
    for name in terms:
        if bool(_gradient_of(subject, name).any()) and torch.equal(moved_by(subject, RATES[1], factors={name: -1.0})[0], plain):
            return broken(
                f"the gradient of term {name} never reaches the optimiser",
                where="update_policy",
                mend="gradients()['loss'] is that of all terms; gradients(by=str) gives each of them, and all of them are added",
            )
    return None


def _added_again(subject: Subject) -> Finding | None:
    """Return a finding if the gradient of a term, at the same weights, is added several times.

    A slightly larger gradient of a term changes an update by the difference times the number of additions.
    """
    small = dict.fromkeys(_totals(subject), TINY)  # below any clip
    plain, _, optimizer = moved_by(subject, RATES[1], factors=small)
    most = optimizer.source.most_at_once if optimizer.source else 0
    if most < 2 and len(small) < 2:
        return None
    owns = [value for _, value in plain_fields(subject.algorithm) if isinstance(value, (int, float))]
    added: dict[str, int] = {}  # term -> how often, if the update is a sum with whole factors
    for name in small:
        more = moved_by(subject, RATES[1], factors=small | {name: 2 * TINY})[0] - plain
        once = _gradient_of(subject, name) * (-RATES[1] * TINY)
        length = float(once @ once)
        times = round(float(more @ once) / length) if length else 0
        if times >= 1 and float((more - times * once).norm()) <= SAME * length**0.5:
            added[name] = times
    for name, times in added.items():
        if times < 2 or times in owns or (times > most and 1 not in added.values()):
            continue
        often = "once" if most < 2 else f"{most} times"
        return broken(
            f"the gradient of term {name}, taken {often} at the same weights, moves the policy {times} times: as "
            "if its coefficient, or the learning rate, were as many times as large",
            number=f"{times} times",
            where="update_policy",
            mend="each call of gradients() gives the whole gradient, each of gradients(by=...) all of its parts: add them once",
        )
    return None


def _gradient_of(subject: Subject, name: str) -> Tensor:
    """Return [all parameters] the gradient of one term of the loss of an update."""
    laboratory = subject.stand_in()
    total = subject.loss(laboratory, subject.first_update(laboratory)).terms[name].total
    leaves = laboratory.policy.parameters()
    if not total.requires_grad:
        return torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=torch.float64)
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([part.reshape(-1).double() for part in found])


def _one_sided(subject: Subject) -> Finding | None:
    """Return a finding if negated gradients do not negate the update, apart from its part without any gradient."""
    terms = _totals(subject)
    moves = []
    for factor in (1.0, -1.0, 0.0):
        moved, gradient, optimizer = moved_by(subject, RATES[1], factors=dict.fromkeys(terms, factor))
        moves.append(moved)
        if optimizer.source and optimizer.source.times > optimizer.source.most_at_once:  # it computes gradients at other weights
            return None
    down, up, still = moves
    left = down + up - 2 * still
    place = int(left.abs().argmax())
    if not bool(torch.isfinite(left).all()) or float(left.norm()) <= SAME * float((down - up).norm()):
        return None
    return broken(
        f"a gradient of {float(gradient[place]):+.2e} moves its weight by {float((down - still)[place]):+.2e}, its opposite by "
        f"{float((up - still)[place]):+.2e}: one side alone is clipped or left out",
        number=f"{float(left.norm() / (down - up).norm()):.1g}",
        where="update_policy",
        mend="an element is clipped on both sides, gradient.clamp(-limit, limit); a norm scales all elements alike",
    )


def _weighs_again(subject: Subject) -> Finding | None:
    """Return a finding if update_policy multiplies a gradient by a coefficient that the loss already includes, or drops it.

    Another value of such a coefficient then changes the update differently from the gradient scaled by the same factor.
    """
    values = {name: value for name, value in plain_fields(subject.algorithm) if isinstance(value, float) and value > 0}
    before = _totals(subject)
    for name, value in values.items():
        changed = next((other for found, other in variants(subject.algorithm, name) if found == name), None)
        other = dict(plain_fields(changed)).get(name, 0.0) if changed is not None else 0.0
        if changed is None or not other:
            continue
        twin, factor = subject.with_algorithm(changed), other / value
        after = _totals(twin)
        scaled = {term for term, total in before.items() if total and _near(after.get(term, 0.0), factor * total)}
        if not scaled or not all(_near(after.get(term, 0.0), before[term]) for term in before.keys() - scaled):
            continue
        small = dict.fromkeys(before, TINY)  # below any clip
        as_it_is = moved_by(subject, RATES[1], factors=small)[0]
        by_gradient = moved_by(subject, RATES[1], factors=small | dict.fromkeys(scaled, factor * TINY))[0]
        by_value = moved_by(twin, RATES[1], factors=small)[0]
        least = SAME * float(by_gradient.norm())
        same_gradient, same_value = (float((each - as_it_is).norm()) <= least for each in (by_gradient, by_value))
        terms = ", ".join(sorted(scaled))
        without = moved_by(subject, RATES[1], factors=small | dict.fromkeys(scaled, 0.0))[0]
        if same_gradient and same_value and float((without - as_it_is).norm()) > least:
            wrong = (
                f"{name} = {other:g} for {value:g} makes the same update: normalising the gradient of {terms} removes its weight"
            )
            mend = "gradients of one size are multiplied by their coefficients again before they are added"
        elif not same_gradient and float((by_gradient - by_value).norm()) > least:
            wrong = (
                f"{name} = {other:g} for {value:g} moves the policy otherwise than a gradient of {terms} that is {factor:g} "
                "times as large: the coefficient counts twice"
            )
            mend = "gradients() and gradients(by=...) carry the coefficients of their terms already: add them as they are"
        else:  # normalised gradients must be multiplied by their coefficient again
            continue
        return broken(wrong, number=f"{factor:g}", where="update_policy", mend=mend)
    return None


def _totals(subject: Subject) -> dict[str, float]:
    """Return term -> its part of the loss of an update."""
    laboratory = subject.stand_in()
    terms = subject.loss(laboratory, subject.first_update(laboratory)).terms
    return {name: float(term.total.detach()) for name, term in terms.items()}


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= EXACT * max(abs(one), abs(other))
