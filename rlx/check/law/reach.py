"""Laws of reach: gradients reach only the policy, and all of its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import at, keys_of, parts_of, tensors_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.stand_in import StandInReference
from rlx.check.subject import Laboratory, Subject, losses_of, row_shown
from rlx.check.variant import plain_fields

DRIFT = 0.5  # nats a token between two references
MOST_TRIED = 3  # completions that are examined
ROWS = slice(0, 6)  # rows of a batch for the real model


def belongs(subject: Subject) -> Finding:
    """Gradients reach only the policy, not the reference, the batch or its weights; no weights change by themselves."""
    laboratory = subject.real(moved=True)
    before = [parameter.detach().clone() for parameter in laboratory.policy.parameters()]
    adapter = laboratory.policy.adapter  # with one, the policy's forward pass uses the reference's weights
    is_shared, own = adapter is not None, frozenset[str]() if adapter is None else adapter.trained
    theirs = [parameter for name, parameter in laboratory.reference.model.named_parameters() if name not in own]
    start = [parameter.detach().clone() for parameter in theirs] if is_shared else []
    batch = subject.first_update(laboratory)
    carrying = [where for where, tensor in tensors_of(batch) if tensor.requires_grad]
    if carrying:
        return broken(
            f"{carrying[0]} carries a gradient",
            where="draw",
            mend="compute what goes into a batch under torch.no_grad(), or detach it; never requires_grad_() in draw",
        )
    unfrozen = [parameter for parameter in theirs if parameter.requires_grad]
    if not is_shared:
        for parameter in theirs:
            parameter.requires_grad_(True)
    if not unfrozen:
        found = _reaches_reference(subject, laboratory, batch[ROWS], [] if is_shared else theirs)
        unfrozen = [parameter for parameter in theirs if is_shared and parameter.requires_grad]
        if found is not None:
            return found
    if unfrozen or any(parameter.grad is not None for parameter in theirs):
        return broken(
            "the reference's weights were made trainable or were given a gradient",
            where="draw or compute_loss",
            mend="leave reference.model alone; read reference.token_logprobs or reference.pair_logprobs",
        )
    parameters = laboratory.policy.parameters()
    if any(parameter.grad is not None for parameter in parameters):
        return broken(
            "compute_loss leaves gradients behind", where="compute_loss", mend="return the loss; the run calls backward"
        )
    if any(not torch.equal(old, new) for old, new in zip(start, theirs, strict=is_shared)):
        return broken(
            "the weights under the adapter moved, which the reference shares",
            where="draw or compute_loss",
            mend="train the adapter alone, and leave reference.model as it is",
        )
    if any(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True)):
        return broken("the policy's weights moved", where="draw or compute_loss", mend="only update_policy may change weights")
    return _through_the_critic(subject) or _target_is_live(subject) or _reference_is_read(subject)


def _through_the_critic(subject: Subject) -> Finding | None:
    """Return a finding if a term multiplies log-probabilities by values with a gradient: an advantage is not detached."""
    if Need.VALUES not in subject.needs or subject.goes_past:
        return None
    laboratory, batch = subject.stand_in_batch()
    terms = subject.loss(laboratory, batch).terms if len(batch) else {}
    logprobs, values = (laboratory.policy.leaves.get(name) for name in ("token_logprobs", "values"))
    if logprobs is None or values is None:
        return None
    for name, term in terms.items():
        into, across = (_slope(term.total, leaf) for leaf in (logprobs, values))
        if bool(_slope(into.sum(), values).any()) and not bool(_slope(across.sum(), values).any()):
            return broken(
                f"term {name} multiplies log-probabilities by values that carry a gradient, and is no regression of the values: "
                "its gradient teaches the critic to please the policy",
                number=f"{float(across.abs().max()):.1e}",
                where=f"terms[{name!r}] in compute_loss",
                example=row_shown(subject, batch, 0),
                mend="an advantage is a constant: take it from the batch, or detach the values that it is made of",
            )
    return None


def _target_is_live(subject: Subject) -> Finding | None:
    """Return a finding if a term pulls the value at a token to the next one, and pushes the next one away.

    A term that compares values only with each other, and has no slope when all are equal, is not a regression and not judged.
    """
    if Need.VALUES not in subject.needs or subject.goes_past:
        return None
    laboratory, batch = subject.stand_in_batch()
    terms = subject.loss(laboratory, batch).terms if len(parts_of(batch)) == 1 else {}
    leaf, places = laboratory.policy.leaves.get("values"), laboratory.policy.places.get("values", {})
    if leaf is None:
        return None
    keys = keys_of(parts_of(batch)[0].sequences) if terms else []
    long = [number for number, key in enumerate(keys) if key in places and places[key].stop - places[key].start > 2][:MOST_TRIED]
    for name, term in terms.items():
        if not long or term.values.shape != parts_of(batch)[0].sequences.completion_mask.shape:
            continue
        slopes = [(number, _slope(term.values.flatten(0, 1)[number, 0], leaf).detach()[places[keys[number]]]) for number in long]
        if not all(float(slope[0] * slope[1]) < 0 for _, slope in slopes) or _compares_alone(subject, laboratory, batch, name):
            continue
        number, slope = slopes[0]
        return broken(
            f"term {name} draws the critic's value at a token to what it says at the next one (slope {float(slope[0]):+.2g}) "
            f"and that one the other way (slope {float(slope[1]):+.2g}): what the critic is to learn carries a gradient",
            number=f"{float(slope[1]):+.2g}",
            where=f"terms[{name!r}] in compute_loss",
            example=row_shown(subject, batch, number // parts_of(batch)[0].sequences.group_size),
            mend="a target is a constant: detach the value that stands for what is to come, or take values from the draw",
        )
    return None


def _compares_alone(subject: Subject, laboratory: Laboratory, batch: Any, name: str) -> bool:
    """Whether a term has no slope when all values are equal, whatever they are."""
    leaf = laboratory.policy.leaves["values"]
    flat = True
    for value in (0.25, 0.75):
        with at(leaf, value):
            flat &= not bool(_slope(subject.loss(laboratory, batch).terms[name].total, leaf).any())
    return flat


def _slope(total: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient of a number, itself differentiable; 0 if the number does not depend on the leaf."""
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(total, leaf, create_graph=True, allow_unused=True, materialize_grads=True)
    return found


def _reaches_reference(subject: Subject, laboratory: Laboratory, batch: Any, theirs: list[torch.nn.Parameter]) -> Finding | None:
    output = subject.loss(laboratory, batch)
    for name, term in output.terms.items():
        if term.weights.requires_grad:
            return broken(
                f"the weights of term {name} carry a gradient",
                where="compute_loss",
                mend="weights depend on masks and lengths alone; put what depends on the policy into the values",
            )
    if not output.loss.requires_grad or not theirs:
        return None
    found = torch.autograd.grad(output.loss, theirs, allow_unused=True, retain_graph=True)
    into = max((float(gradient.abs().max()) for gradient in found if gradient is not None), default=None)
    if into is None:
        return None
    return broken(
        f"the gradient goes into the reference (largest entry {into:.1e})",
        number=f"{into:.0e}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="read the reference through its own methods, which take no gradient, or under torch.no_grad()",
    )


def _reference_is_read(subject: Subject) -> Finding:
    laboratory, batch = subject.stand_in_batch()
    subject.loss(laboratory, batch)
    asked = laboratory.reference.calls if isinstance(laboratory.reference, StandInReference) else 0
    if Need.REFERENCE in subject.needs and asked == 0 and _real_calls(subject) == 0:
        return broken(
            "Need.REFERENCE is declared, but the reference is never asked: the policy would be compared with itself",
            where="compute_loss",
            mend="take reference log-probabilities from reference.pair_logprobs(batch) or reference.token_logprobs(sequences)",
        )
    if Need.REFERENCE not in subject.needs and asked:
        return broken("the reference is read, but needs does not name it", where="needs", mend="add Need.REFERENCE to needs")
    return _reference_matters(subject) or passed("none elsewhere")


def _reference_matters(subject: Subject) -> Finding | None:
    """Return a finding if the reference is needed and read, but other values of it change nothing."""
    if Need.REFERENCE not in subject.needs or subject.goes_past:
        return None
    if any(not value for _, value in plain_fields(subject.algorithm)):  # such as the weight of its penalty
        return None
    if any(not loss.needs_reference for _, loss in losses_of(subject.algorithm)):  # a declared absence of effect
        return None
    for step in (0, 500):
        found = []
        for drift in (0.0, DRIFT):
            laboratory, batch = subject.stand_in_batch(step=step, drift=drift)
            if len(batch) == 0:
                return None
            gradient, figures = subject.gradient(laboratory, batch)
            if any(name.startswith("kl_") for name in laboratory.policy.leaves):  # stand-ins have one for every reference
                return None
            found.append((gradient, repr(figures)))
        (one, said), (other, said_of_other) = found
        if one.shape != other.shape or not torch.equal(one, other) or said != said_of_other:
            return None
    return broken(
        "the reference is asked, but another one changes no loss, no gradient and no figure: what the loss is held to is not the "
        "reference",
        number="0",
        where="draw or compute_loss",
        example=row_shown(subject, batch, 0),
        mend="take reference log-probabilities from lab.reference.token_logprobs(...) or reference.pair_logprobs(batch), not "
        "from the policy; without use for them, drop Need.REFERENCE",
    )


def _real_calls(subject: Subject) -> int:
    """Return how often the reference's model is run, for algorithms that do not use the stand-in's methods."""
    laboratory = subject.real(moved=False, runs_reference=True)
    calls: list[bool] = []
    adapter = laboratory.policy.adapter  # with one, the policy uses the same model
    handle = laboratory.reference.model.register_forward_hook(lambda *_: calls.append(adapter is None or adapter.is_at_start))
    try:
        subject.loss(laboratory, subject.first_update(laboratory)[ROWS])
    finally:
        handle.remove()
    return sum(calls)


def reached(subject: Subject) -> Finding:
    """Every trainable parameter that log-probabilities (and values, with a critic) depend on gets a gradient."""
    laboratory = subject.real(moved=True)
    batch = subject.first_update(laboratory)[ROWS]
    names = [name for name, parameter in laboratory.policy.model.named_parameters() if parameter.requires_grad]
    source = subject.accumulate(subject.algorithm, laboratory.policy, laboratory.reference, batch, micro_batch=len(batch))
    gradient = list(source()["loss"])
    names += [f"value_head.{number}" for number in range(len(gradient) - len(names))]
    parts = parts_of(batch)
    if not parts:
        return skipped("the batch has no sequences of its own")
    reachable = _reachable(laboratory, parts[0].sequences)
    missing = [name for name, mine, can in zip(names, gradient, reachable, strict=True) if can and not _nonzero(mine)]
    if missing:
        shown = (
            "no parameter gets a gradient" if not any(map(_nonzero, gradient)) else f"{len(missing)} parameters get no gradient"
        )
        return broken(
            f"{shown}: {', '.join(missing[:2])}{', ...' if len(missing) > 2 else ''}",
            number=f"{len(names) - len(missing)}/{len(names)}",
            where="compute_loss",
            example=row_shown(subject, batch, 0),
            mend="something is detached, computed under no_grad or read from the batch where the policy was meant",
        )
    return passed(f"{sum(map(_nonzero, gradient))}/{len(names)}")


def _nonzero(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


def _reachable(laboratory: Laboratory, sequences: Any) -> list[bool]:
    requires = frozenset({"values"}) if laboratory.policy.value_head is not None else frozenset()
    found = laboratory.policy.token_statistics(sequences, requires=requires)
    total = (found.token_logprobs * torch.arange(1, found.token_logprobs.shape[-1] + 1)).sum()
    total = total if found.values is None else total + found.values.sum()
    gradients = torch.autograd.grad(total, laboratory.policy.parameters(), allow_unused=True)
    return [_nonzero(gradient) for gradient in gradients]
