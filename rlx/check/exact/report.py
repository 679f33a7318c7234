"""What an algorithm's estimator is, in numbers: bias and variance over every completion of a vocabulary of five."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.exact.expectation import Estimate, Measured, alone, groups_of, measured, objectives, of_estimate, stated_beta
from rlx.check.exact.world import ExactLaboratory, World, exact_laboratory
from rlx.check.subject import Subject
from rlx.errors import ConfigError
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.seeding import Stream

VOCABULARY, LENGTH = 5, 3  # 85 completions of up to three tokens; the fifth token ends one
MOST = 5000  # groups that are enumerated


def exact_report(subject: Subject) -> dict[str, Any]:
    """Figures where the sampler is the policy and where it is another one, with what they are of.

    Raises ConfigError for an algorithm that samples nothing, reads the model itself, or admits no small group.
    """
    if Need.REWARDS not in subject.needs or Need.PAIRS in subject.needs or subject.goes_past or subject.warm_up:
        raise ConfigError(
            f"exact=true enumerates what is sampled, and {type(subject.algorithm).__name__} samples nothing, learns from pairs "
            "too, reads the model itself or fills a buffer first; check it without"
        )
    lone = alone(subject.algorithm)
    if lone is None:
        raise ConfigError(f"exact=true needs a group of 2 to 4 completions, which {type(subject.algorithm).__name__} refuses")
    subject = subject.with_algorithm(lone)
    length = LENGTH
    size = getattr(lone, "group_size", 1)
    world = World.of(subject.policy, vocabulary=VOCABULARY, length=length)
    while length > 1 and groups_of(world, size, ordered=False) > MOST:
        length -= 1
        world = World.of(subject.policy, vocabulary=VOCABULARY, length=length)
    has_kl, beta = Need.REFERENCE in subject.needs, stated_beta(lone) if Need.REFERENCE in subject.needs else 0.0
    try:
        both = {
            name: measured(subject, world, on_policy=on_policy, ordered=False, has_kl=has_kl, beta=beta)
            for name, on_policy in (("on_policy", True), ("off_policy", False))
        }
    except ValueError as error:
        raise ConfigError(f"exact=true enumerates the groups of one prompt, and {error}") from error
    return {
        "vocabulary": VOCABULARY,
        "tokens": length,
        "completions": len(world.completions),
        "group_size": size,
        "beta": beta,
        **{name: asdict(found) for name, found in both.items()},
    }


def figure_of(loss: PolicyGradientLoss, subject: Subject, *, world: World | None = None) -> tuple[Measured, Measured]:
    """A policy-gradient loss alone, on and off policy: with the leave-one-out advantage of two, which is not biased, and no KL.

    All groups at once: what `expected_gradient` does for an algorithm, one after the other.
    """
    world = world or World.of(subject.policy, vocabulary=VOCABULARY, length=LENGTH)
    loss = replace(loss, beta=0.0)
    found = [_of_loss(loss, exact_laboratory(subject, world, on_policy=on_policy)) for on_policy in (True, False)]
    return found[0], found[1]


def _of_loss(loss: PolicyGradientLoss, exact: ExactLaboratory) -> Measured:
    world, temperature = exact.world, exact.sampler.temperature
    own, slopes, mask = _of_completions(exact, exact.logits)  # [K, T], [K, T, 2, N] of log-probability and entropy
    before = _of_completions(exact, exact.sampler_logits)[0]
    first, second = torch.combinations(torch.arange(len(mask)), 2, with_replacement=True).unbind(dim=1)
    pairs = torch.stack([first, second], dim=1)  # [M, 2]
    chances = world.logprobs(exact.sampler_logits, temperature).exp()
    weight = chances[first] * chances[second] * torch.where(first == second, 1.0, 2.0)
    lead = exact.rewards[first] - exact.rewards[second]
    leaves = own[0][pairs].requires_grad_(True), own[1][pairs].requires_grad_(True)  # [M, 2, T]
    given = (leaves[0], before[0][pairs], torch.stack([lead, -lead], dim=1), mask[pairs])
    optional = {"entropy": leaves[1], "proximal_logprobs": before[0][pairs]}

    def values(at: slice | int) -> Tensor:
        required: dict[str, Any] = {name: tensor[at] for name, tensor in optional.items() if name in loss.requires}
        if "rng" in loss.requires:
            required["rng"] = Stream(0, ("exact", "rng")).torch()
        logprobs, sampled, advantages, inside = (tensor[at] for tensor in given)
        found: Tensor = loss(logprobs, sampled, advantages, inside, None, **required)
        return weights[at] * found

    weights = torch.stack([loss.weights(each) for each in given[3]])
    alone_ = "rng" in loss.requires or loss.couples_rows  # the value of one completion depends on the other of its group
    total = torch.stack([values(at).sum() for at in range(len(pairs))]).sum() if alone_ else values(slice(None)).sum()
    parts = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)  # [M, 2, T] each
    gradients = torch.einsum("mgtl,mgtln->mn", torch.stack(parts, dim=-1), slopes[pairs])
    estimate = Estimate(
        mean=(weight[:, None] * gradients).sum(dim=0),
        square=float((weight * (gradients**2).sum(dim=1)).sum()),
        size=float((weight * gradients.norm(dim=1)).sum()),
        groups=len(pairs),
    )
    return of_estimate(estimate, objectives(exact, beta=0.0), size=2, has_kl=False, beta=0.0)


def _of_completions(exact: ExactLaboratory, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """([2, K, T] log-probabilities and entropies, [K, T, 2, N] their gradients, bool [K, T] mask) under logits [S, V]."""
    world, size = exact.world, logits.numel()
    leaf = logits.clone().requires_grad_(True)
    table = torch.log_softmax(leaf / exact.sampler.temperature, dim=-1)
    entropy = -(table.exp() * table).sum(dim=-1)
    found = torch.zeros(2, len(world.completions), world.length, dtype=torch.float64)
    slopes = torch.zeros(len(world.completions), world.length, 2, size, dtype=torch.float64)
    mask = torch.zeros(found.shape[1:], dtype=torch.bool)
    for row, completion in enumerate(world.completions):
        for place, (state, token) in enumerate(zip(world.rows(completion), completion, strict=True)):
            mask[row, place] = True
            for which, value in enumerate((table[state, token], entropy[state])):
                found[which, row, place] = value.detach()
                slopes[row, place, which] = torch.autograd.grad(value, leaf, retain_graph=True)[0].reshape(-1)
    return found, slopes, mask


def figure_line(on: Measured, off: Measured) -> str:
    """As it stands in a docstring: variances are relative to that of REINFORCE on policy with its best baseline."""
    return (
        f"Exact: on policy bias {on.bias:.2f}, variance {on.variance / on.reinforce:.1f}; "
        f"off policy bias {off.bias:.2f}, variance {off.variance / on.reinforce:.1f}."
    )
