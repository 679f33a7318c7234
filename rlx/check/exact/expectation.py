"""Exact expected gradients: an algorithm's estimator over every group of completions, and the objectives it may follow.

Dimensions: K completions, S states, V vocabulary, N = S V logits.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.exact.world import ExactLaboratory, World, exact_laboratory
from rlx.check.subject import Subject
from rlx.check.variant import plain_fields
from rlx.errors import ConfigError, RlxError
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.seeding import Stream

# names of the weight of a KL
BETAS = {"beta", "kl_in_reward", "kl_coefficient", "kl_coef", "kl_loss_coef", "kl_weight", "kl_beta", "kl_penalty"}
ALONE = {"prompts_per_step": 1, "group_size": 2, "minibatches": 1, "resample_attempts": 0}  # one prompt with its smallest group


@dataclass(frozen=True, eq=False)
class Estimate:
    """The gradient of a loss with respect to the logits, over everything that may be sampled.

    mean: float64 [N], E g. square: E|g|²; size: E|g|. groups: how many groups were enumerated.
    """

    mean: Tensor
    square: float
    size: float
    groups: int

    @property
    def relative_variance(self) -> float:
        """E|g - E g|² / |E g|²; infinite if the mean is 0."""
        norm = float(self.mean @ self.mean)
        return (self.square - norm) / norm if norm > 0 else math.inf


@dataclass(frozen=True, eq=False)
class Objectives:
    """Gradients [N] of the objectives that a policy may have, at a laboratory's policy.

    reward: of the expected reward. kl: of KL(policy || reference) of whole completions; kl_at_states: of the sum of the KLs at
    the visited states with fixed visit probabilities, as a KL in the loss has.
    best_reinforce: E|g - E g|² / |E g|² of REINFORCE with one completion, its best constant baseline and the KL in its reward.
    """

    reward: Tensor
    kl: Tensor
    kl_at_states: Tensor
    best_reinforce: float


def alone(algorithm: Any) -> Any | None:
    """Return the algorithm with one prompt a draw and its smallest group; None if its settings allow no group of at most 4."""
    names = {item.name for item in fields(algorithm)}
    for size in (2, 3, 4):
        changes = {name: size if name == "group_size" else value for name, value in ALONE.items() if name in names}
        if "group_size" in changes and algorithm.group_size == 1:
            changes["group_size"] = 1
        try:
            return replace(algorithm, **changes)
        except (RlxError, ValueError, TypeError):  # the settings refuse so small a group
            continue
    return None


def expected_gradient(subject: Subject, exact: ExactLaboratory, *, ordered: bool, without_advantages: bool = False) -> Estimate:
    """Return the expected gradient over all groups of completions, weighted by their probabilities under the sampler.

    ordered: whether each order of a group is enumerated, or one order stands for all; then the order must not matter.
    without_advantages: sets the advantages of each batch to 0, so that what is left does not come from rewards.
    Raises ValueError if a draw has more than one prompt.
    """
    sampler, policy = exact.sampler, exact.laboratory.policy
    subject.draw(exact.laboratory)  # shows how large a group is
    exact.laboratory.state.clear()
    if not sampler.asked or sampler.asked[0] != 1:
        raise ValueError(f"a draw is of {sampler.asked[0] if sampler.asked else 0} prompts")
    size = sampler.asked[1]
    logprobs = exact.world.logprobs(exact.sampler_logits, sampler.temperature).exp().tolist()
    places = range(len(logprobs))
    groups = itertools.product(places, repeat=size) if ordered else itertools.combinations_with_replacement(places, size)
    mean = torch.zeros(policy.table.numel(), dtype=torch.float64)
    square = length = 0.0
    count = 0
    for group in groups:
        orders = 1 if ordered else math.factorial(size) // math.prod(math.factorial(group.count(each)) for each in set(group))
        weight = orders * math.prod(logprobs[each] for each in group)
        sampler.chosen[:] = group
        exact.laboratory.state.clear()
        batch = subject.first_update(exact.laboratory)
        count += 1
        if len(batch) == 0:
            continue
        if without_advantages:
            batch = batch.with_values(advantages=torch.zeros_like(batch.advantages))
        loss = subject.algorithm.compute_loss(policy, exact.laboratory.reference, batch).loss
        if not loss.requires_grad:
            continue
        (found,) = torch.autograd.grad(loss, [policy.table], allow_unused=True, materialize_grads=True)
        flat = found.reshape(-1)
        mean += weight * flat
        square += weight * float(flat @ flat)
        length += weight * float(flat.norm())
    return Estimate(mean, square, length, count)


def groups_of(world: World, size: int, *, ordered: bool) -> int:
    """Return the number of groups to enumerate."""
    count = len(world.completions)
    return int(count**size) if ordered else math.comb(count + size - 1, size)


def objectives(exact: ExactLaboratory, *, beta: float) -> Objectives:
    """Return the gradients of the objectives, by sums over all completions. beta: of the KL in the reward of REINFORCE."""
    world, temperature = exact.world, exact.sampler.temperature
    logits = exact.logits.clone().requires_grad_(True)
    logprobs = world.logprobs(logits, temperature)
    theirs = world.logprobs(exact.reference_logits, temperature)
    scores = torch.stack([torch.autograd.grad(each, logits, retain_graph=True)[0].reshape(-1) for each in logprobs])  # [K, N]
    weights = logprobs.detach().exp()
    drift = logprobs.detach() - theirs
    (at_states,) = torch.autograd.grad(_kl_at_states(exact, logits, weights), logits)
    rewards = exact.rewards - beta * drift
    mean = ((weights * rewards)[:, None] * scores).sum(dim=0)
    squares = (scores**2).sum(dim=1)
    baseline = float((weights * rewards * squares).sum() / (weights * squares).sum())
    second = float((weights * (rewards - baseline) ** 2 * squares).sum())
    norm = float(mean @ mean)
    return Objectives(
        reward=((weights * exact.rewards)[:, None] * scores).sum(dim=0),
        kl=((weights * drift)[:, None] * scores).sum(dim=0),
        kl_at_states=at_states.reshape(-1),
        best_reinforce=(second - norm) / norm if norm > 0 else math.inf,
    )


def _kl_at_states(exact: ExactLaboratory, logits: Tensor, weights: Tensor) -> Tensor:
    """Return [] the sum of the KLs at all states, weighted by the fixed probabilities of visiting them."""
    temperature = exact.sampler.temperature
    ours, theirs = (torch.log_softmax(each / temperature, dim=-1) for each in (logits, exact.reference_logits))
    visits = torch.zeros(len(exact.world.states), dtype=torch.float64)
    for weight, completion in zip(weights.tolist(), exact.world.completions, strict=True):
        visits[exact.world.rows(completion)] += weight
    return (visits * (ours.exp() * (ours - theirs)).sum(dim=-1)).sum()


def is_beta(name: str) -> bool:
    """Whether a hyperparameter of this dotted name is the weight of a KL."""
    return name.rpartition(".")[2] in BETAS


def stated_beta(algorithm: Any) -> float:
    """Return the sum of the algorithm's KL weights, recognised by their names; 0 if there is none."""
    return sum(
        float(value)
        for name, value in plain_fields(algorithm)
        if is_beta(name) and isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def cosine_of_vectors(one: Tensor, other: Tensor) -> float:
    """Return the cosine of two vectors; 0 if one of them is 0."""
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale > 0 else 0.0


@dataclass(frozen=True)
class MeasuredGradient:
    """Properties of an estimator's expected gradient.

    scale: the fitted factor between the estimate and the objective's gradient. bias: the share of E g that is not a multiple of
    that gradient, |E g + scale · ∇objective| / |E g|, from 0 to 1. cosine: of the two.
    variance: relative, E|g - E g|² / |E g|²; reinforce: that of REINFORCE with its best baseline and as many completions.
    beta: the fitted weight of the KL, None without a KL; at_states: whether it is the KL at the visited states.
    """

    scale: float
    bias: float
    cosine: float
    variance: float
    reinforce: float
    beta: float | None
    at_states: bool
    groups: int


def measured(subject: Subject, world: World, *, on_policy: bool, ordered: bool, has_kl: bool, beta: float) -> MeasuredGradient:
    """Return the properties of an algorithm that draws one group, in a world."""
    exact = exact_laboratory(subject, world, on_policy=on_policy)
    estimate = expected_gradient(subject, exact, ordered=ordered)
    size = exact.sampler.asked[1]
    return of_estimate(estimate, objectives(exact, beta=beta), size=size, has_kl=has_kl, beta=beta)


def of_estimate(estimate: Estimate, aims: Objectives, *, size: int, has_kl: bool, beta: float) -> MeasuredGradient:
    """Compare an estimate with the gradient of its objective, expected reward - beta KL. size: completions of a group."""
    objective = aims.reward - beta * aims.kl
    down = -estimate.mean
    scale = float(down @ objective) / float(objective @ objective)
    bias = float((down - scale * objective).norm()) / max(1e-300, float(down.norm()))
    fits = []
    for kl in (aims.kl, aims.kl_at_states):
        columns = torch.stack([aims.reward, -kl], dim=1)
        solution = torch.linalg.lstsq(columns, down[:, None]).solution[:, 0]
        fits.append((float((columns @ solution - down).norm()), float(solution[1] / solution[0]) if solution[0] else math.inf))
    best = min((0, 1), key=lambda which: fits[which][0])
    return MeasuredGradient(
        scale=scale,
        bias=bias,
        cosine=cosine_of_vectors(down, objective),
        variance=estimate.relative_variance,
        reinforce=aims.best_reinforce / size,
        beta=fits[best][1] if has_kl else None,
        at_states=best == 1,
        groups=estimate.groups,
    )


# The properties of an algorithm's estimator: bias and variance over every completion of a vocabulary of five.


VOCABULARY, LENGTH = 5, 3  # 85 completions of up to three tokens; the fifth token ends one
MOST = 5000  # groups that are enumerated, at most


def exact_report(subject: Subject) -> dict[str, Any]:
    """Return the properties of the estimator on policy and off policy, with the sizes of the world, as a JSON object.

    Raises ConfigError for an algorithm that samples nothing, reads the model itself, or allows no small group.
    """
    if Need.REWARDS not in subject.needs or subject.reads_pairs or subject.goes_past or subject.warm_up:
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


def figure_of(
    loss: PolicyGradientLoss, subject: Subject, *, world: World | None = None
) -> tuple[MeasuredGradient, MeasuredGradient]:
    """Return the properties of a policy-gradient loss on and off policy, with the leave-one-out advantage of two and no KL.

    That advantage is unbiased. All groups are computed at once; `expected_gradient` computes them one after the other.
    """
    world = world or World.of(subject.policy, vocabulary=VOCABULARY, length=LENGTH)
    loss = replace(loss, beta=0.0)
    found = [_of_loss(loss, exact_laboratory(subject, world, on_policy=on_policy)) for on_policy in (True, False)]
    return found[0], found[1]


def _of_loss(loss: PolicyGradientLoss, exact: ExactLaboratory) -> MeasuredGradient:
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
    alone_ = "rng" in loss.requires or loss.couples_rows  # a completion's value depends on its group
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
    """Return ([2, K, T] log-probabilities and entropies, [K, T, 2, N] their gradients, bool [K, T] mask) under logits [S, V]."""
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


def figure_line(on: MeasuredGradient, off: MeasuredGradient) -> str:
    """Return the line for a loss's docstring; variances are relative to that of REINFORCE on policy with its best baseline."""
    return (
        f"Exact: on policy bias {on.bias:.2f}, variance {on.variance / on.reinforce:.1f}; "
        f"off policy bias {off.bias:.2f}, variance {off.variance / on.reinforce:.1f}."
    )
