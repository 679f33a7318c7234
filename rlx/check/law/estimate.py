"""Part of the law of closed forms, on estimates of a KL: their mean over samples of the policy is the KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlx.algorithm.base import Need, Term
from rlx.check.batch import parts_of
from rlx.check.exact.expectation import is_beta
from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject
from rlx.check.variant import plain_fields, variants

WORLDS = (((0.3, 0.7), (0.1, 0.9)), ((0.6, 0.4), (0.2, 0.8)))  # probabilities of two tokens under the policy, under the reference
CLOSE = 1e-5
FLAT = 1e-6  # largest difference between the values of tokens with equal probabilities


def ratio_upside_down(subject: Subject) -> Finding | None:
    """Return a finding if an estimate of a KL has the inverse ratio: its mean is the KL of exchanged policy and reference.

    Two tokens are enumerated. An estimate that is biased in both directions (a square of the log-ratio, say) is not judged.
    """
    if not {Need.REWARDS, Need.REFERENCE} <= subject.needs or subject.reads_pairs or subject.goes_past:
        return None
    found: dict[str, list[tuple[float, float]]] = {}
    for place, (ours, theirs) in enumerate(WORLDS):
        kl = sum(p * math.log(p / q) for p, q in zip(ours, theirs, strict=True))
        as_it_is = _expected(subject, ours, theirs, turned=False)
        if all(mean <= kl + CLOSE for mean in as_it_is.values()):
            return None
        exchanged = _expected(subject, ours, theirs, turned=True)
        for name, mean in as_it_is.items():
            if mean > kl + CLOSE and abs(exchanged.get(name, 0.0) - kl) < CLOSE:
                found.setdefault(name, []).append((mean, kl))
        if not any(len(each) > place for each in found.values()):
            return None
    name = next(name for name, each in found.items() if len(each) == len(WORLDS))
    mean, kl = found[name][0]
    (p, _), (q, _) = WORLDS[0]
    return broken(
        f"{name} is {mean:.3g} on average over two tokens that the policy samples with {p:g} and {1 - p:g}, the reference with "
        f"{q:g} and {1 - q:g}, where the KL is {kl:.3g}: with policy and reference exchanged it is the KL, so its ratio is the "
        "wrong way up",
        number=f"{mean:.3g}",
        where="compute_loss",
        mend="k3 = r.exp() - r - 1 with r = reference - policy, both of log-probabilities of tokens that the policy has sampled",
    )


def _expected(subject: Subject, ours: tuple[float, ...], theirs: tuple[float, ...], *, turned: bool) -> dict[str, float]:
    """Return estimate -> its mean over the policy's samples. turned: whether it exchanges policy and reference."""
    total: dict[str, float] = {}
    for p, q in zip(ours, theirs, strict=True):
        values = _values(subject, *((q, p) if turned else (p, q)))
        if not values or (total and total.keys() != values.keys()):
            return {}
        total = {name: total.get(name, 0.0) + p * value for name, value in values.items()}
    return total


def _values(subject: Subject, p: float, q: float) -> dict[str, float]:
    """Return estimate -> its value at a token with probability p under the policy and q under the reference.

    An estimate is a term called kl, or the quantity in the loss that the weight of a KL multiplies.
    """
    temperature = subject.sampler.temperature or 1.0
    laboratory, batch = subject.stand_in_batch(constant=temperature * math.log(q), constant_of="everybody")
    if len(parts_of(batch)) != 1 or not isinstance(getattr(batch, "sampling_logprobs", None), Tensor):
        return {}
    terms = subject.loss(laboratory, batch).terms
    leaf = laboratory.policy.leaves.get("token_logprobs")
    weights = [name for name, value in plain_fields(subject.algorithm) if is_beta(name) and isinstance(value, float) and value]
    if leaf is None or (not any(map(_is_kl, terms)) and not weights):
        return {}
    with torch.no_grad():
        leaf.fill_(temperature * math.log(p))
    batch = batch.with_values(sampling_logprobs=torch.where(batch.completion_mask, math.log(p), 0.0))
    terms = subject.loss(laboratory, batch).terms
    learned = {f"the term {name}": _learned(term) for name, term in terms.items() if _is_kl(name)}
    for name, other in {name: other for weight in weights for name, other in variants(subject.algorithm, weight)}.items():
        by = dict(plain_fields(other))[name] - dict(plain_fields(subject.algorithm))[name]
        others = subject.with_algorithm(other).loss(laboratory, batch).terms
        rises = [
            other.coefficient * _learned(other) - terms[key].coefficient * _learned(terms[key]) for key, other in others.items()
        ]
        moved = [rise / by for rise in rises if bool(rise.any())]
        learned |= {f"what {name} weighs": moved[0]} if len(moved) == 1 else {}
    flat = {name: values for name, values in learned.items() if values.numel() and float(values.max() - values.min()) < FLAT}
    return {name: float(values[0]) for name, values in flat.items()}


def _learned(term: Term) -> Tensor:
    """Return float64 [N] the values with a non-zero weight."""
    return term.values.detach().double()[term.weights.expand_as(term.values) != 0]


def _is_kl(name: str) -> bool:
    return "kl" in name.lower().replace("/", "_").split("_")
