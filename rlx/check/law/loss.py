"""Laws of a loss alone, on random tensors, for faults that no algorithm shows.

Weights are 0 outside the mask, each token is pushed in the direction of its advantage's sign, and a clip stops exactly at its
bounds. The other laws test everything else about a loss, through an algorithm that holds it.
Dimensions: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.check.finding import FAILED, Finding, broken, passed, skipped
from rlx.check.law.policy_gradient import FAR
from rlx.check.subject import Subject, losses_of
from rlx.errors import ConfigError
from rlx.loss.base import Loss
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.loss.preference.base import PreferenceLoss
from rlx.loss.preference.pairs import PairLogprobs
from rlx.seeding import Stream

Tensors = Mapping[str, Tensor]
TOLERANCE = 1e-9
NEAR = 1e-6  # nats on either side of a bound of the ratio that a loss names
TOKENS = 3  # few, so that a smooth weight of a whole sequence's ratio does not become 0
GAPS = (0.1, 1.0)  # between the scores of a pair
LOWER = 2.0  # nats by which all tokens are less likely, so that a likelier sampler's log-probabilities stay below 0


@dataclass(frozen=True, eq=False)
class Case:
    """A batch for a loss: `evaluate(tensors)` calls the loss on tensors named as in `tensors`, for all or some of the rows.

    leaves: names of the tensors whose gradients are computed. weight_mask: name of the mask from which the weights are computed.
    """

    loss: Loss
    tensors: Tensors
    leaves: tuple[str, ...]
    evaluate: Callable[[Tensors], Tensor]
    weight_mask: str

    def __len__(self) -> int:
        return len(self.tensors[self.weight_mask])

    @property
    def weights(self) -> Tensor:
        """The weights of all rows."""
        return self.loss.weights(self.tensors[self.weight_mask])

    def with_tensors(self, **changed: Tensor) -> Case:
        """Return this case with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **changed})

    def total(self) -> Tensor:
        """Return [] the loss."""
        return (self.weights * self.evaluate(self.tensors)).sum()

    def gradients(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ([] the loss, leaf -> its gradient, 0 if the loss does not depend on it)."""
        leaves = {name: self.tensors[name].detach().clone().requires_grad_() for name in self.leaves}
        total = self.with_tensors(**leaves).total()
        if not total.requires_grad:
            return total, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        given = zip(leaves.items(), found, strict=True)
        return total.detach(), {name: torch.zeros_like(leaf) if grad is None else grad for (name, leaf), grad in given}


def case_of(loss: Loss, *, rows: int = 8, tokens: int = 7, seed: int = 0, labelled: bool = True, spread: float = 0.5) -> Case:
    """Return a random batch in float64 for a preference or a policy-gradient loss.

    spread: distance of policy, sampler and reference, in nats a token. labelled: whether a loss that can read labels gets them;
    if not, the chosen completion also has the higher score. Raises ConfigError for another kind of loss.
    """
    rng = Stream(seed, ("laws", rows, tokens)).torch()
    if isinstance(loss, PreferenceLoss):
        return _pairs(loss, rows, tokens, rng, labelled, spread)
    if isinstance(loss, PolicyGradientLoss):
        return _rollouts(loss, rows, tokens, rng, spread)
    raise ConfigError(f"{type(loss).__name__} is neither a PreferenceLoss nor a PolicyGradientLoss; derive it from one of them")


def _logprobs(mask: Tensor, rng: torch.Generator) -> Tensor:
    return torch.where(mask, -0.05 - 2 * torch.rand(mask.shape, generator=rng, dtype=torch.float64), 0.0)


def _moved(logprobs: Tensor, mask: Tensor, rng: torch.Generator, spread: float) -> Tensor:
    noise = torch.randn(mask.shape, generator=rng, dtype=torch.float64)
    return torch.where(mask, (logprobs + spread * noise).clamp(max=-0.01), 0.0)


def _mask(rows: int, tokens: int, rng: torch.Generator) -> Tensor:
    """Return bool [B, T]; the last row is empty, the one before it has one token."""
    lengths = torch.randint(1, tokens + 1, (rows,), generator=rng)
    lengths[-1], lengths[-2], lengths[0] = 0, 1, tokens
    return torch.arange(tokens) < lengths[:, None]


def _pairs(loss: PreferenceLoss, rows: int, tokens: int, rng: torch.Generator, labelled: bool, spread: float) -> Case:
    tensors: dict[str, Tensor] = {}
    for side in ("chosen", "rejected"):
        mask = _mask(rows, tokens, rng).roll(int(side == "rejected"), dims=0)
        policy = _logprobs(mask, rng)
        tensors |= {f"policy.{side}": policy, f"policy.{side}_mask": mask, f"reference.{side}_mask": mask}
        tensors[f"reference.{side}"] = _moved(policy, mask, rng, spread)
        tensors[f"policy.{side}_sum_p_squared"] = 0.05 + 0.9 * torch.rand(mask.shape, generator=rng, dtype=torch.float64)
        tensors[f"policy.{side}_vocabulary_kl"] = torch.rand(mask.shape, generator=rng, dtype=torch.float64)
        tensors[f"policy.{side}_entropy"] = torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    scores = torch.rand(rows, 2, generator=rng, dtype=torch.float64)
    scores[0] = 0.5  # a tie
    tensors["policy.scores"] = scores if labelled else scores.sort(dim=1, descending=True).values
    for owner in ("policy", "reference"):
        tensors[f"{owner}.mismatched"] = -5 * torch.rand(rows, 2, generator=rng, dtype=torch.float64)
    if labelled and "label" in loss.requires:
        tensors["policy.label"] = torch.rand(rows, 2, generator=rng) < 0.5
        tensors["policy.has_label"] = torch.rand(rows, 2, generator=rng) < 0.8
    leaves: tuple[str, ...] = ("policy.chosen", "policy.rejected")
    if "vocabulary_kl" in loss.requires:
        leaves += ("policy.chosen_vocabulary_kl", "policy.rejected_vocabulary_kl")

    def evaluate(given: Tensors) -> Tensor:
        policy, reference = (
            PairLogprobs(**{name.partition(".")[2]: tensor for name, tensor in given.items() if name.startswith(owner)})
            for owner in ("policy.", "reference.")
        )
        return loss(policy, reference if loss.needs_reference else None)

    return Case(loss, tensors, leaves, evaluate, "policy.chosen_mask")


def _rollouts(loss: PolicyGradientLoss, rows: int, tokens: int, rng: torch.Generator, spread: float) -> Case:
    mask = _mask(rows, tokens, rng)
    policy = _logprobs(mask, rng)
    tensors = {"token_logprobs": policy, "completion_mask": mask}
    for name in ("sampling_logprobs", "reference_logprobs"):
        tensors[name] = _moved(policy, mask, rng, spread)
    proximal = _moved(tensors["sampling_logprobs"], mask, rng, spread / 2)
    agreeing = torch.arange(rows)[:, None] % 2 == 0  # sampler and trainer agree on every second row
    tensors["proximal_logprobs"] = torch.where(agreeing, tensors["sampling_logprobs"], proximal)
    tensors["entropy"] = 2 * torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    tensors["vocabulary_kl"] = torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    tensors["advantages"] = 2 * torch.randn(rows, generator=rng, dtype=torch.float64)
    leaves = ("token_logprobs", *sorted(loss.requires & {"entropy", "vocabulary_kl"}))

    def evaluate(given: Tensors) -> Tensor:
        required: dict[str, Any] = {name: given[name] for name in loss.requires - {"rng"}}
        if "rng" in loss.requires:
            required["rng"] = Stream(0, ("laws", "rng")).torch()
        reference = given["reference_logprobs"] if loss.needs_reference else None
        arguments = (given["token_logprobs"], given["sampling_logprobs"], given["advantages"], given["completion_mask"])
        return loss(*arguments, reference, **required)

    return Case(loss, tensors, leaves, evaluate, "completion_mask")


def weights(loss: Loss) -> Finding:
    """Weights have the shape of the values, no gradient, no negative entry, and are 0 outside of the mask."""
    case = case_of(loss)
    weights, values = case.weights, case.evaluate(case.tensors)
    mask = case.tensors[case.weight_mask]
    if weights.shape != values.shape:
        shapes = f"weights are {tuple(weights.shape)}, but values {tuple(values.shape)}"
        return broken(shapes, where="weights", mend="weights(completion_mask) returns the shape of the values")
    if weights.requires_grad or bool((weights < 0).any()):
        wrong = "weights carry a gradient" if weights.requires_grad else "weights are negative"
        return broken(wrong, where="weights", mend="weights depend on masks and lengths alone")
    if weights.shape == mask.shape and bool((weights[~mask] != 0).any()):
        return broken("weights outside of the mask are not 0", where="weights", mend="multiply the weights by the mask")
    return passed()


def signs(loss: Loss) -> Finding:
    """Where the policy is the sampler, tokens with a positive advantage become likelier and those with a negative less likely."""
    if not isinstance(loss, PolicyGradientLoss):
        return skipped("a preference loss has no advantages")
    case = case_of(loss)
    on_policy = dict.fromkeys(("sampling_logprobs", "reference_logprobs", "proximal_logprobs"), case.tensors["token_logprobs"])
    _, gradients = case.with_tensors(**on_policy).gradients()
    against = float((gradients["token_logprobs"] * case.tensors["advantages"][:, None]).max())
    if against <= TOLERANCE or _is_weighted_likelihood(case, gradients["token_logprobs"]):
        return passed(f"{against:.0e}")
    return broken(
        "the gradient lowers the probability of a token with a positive advantage, or raises one with a negative",
        number=f"{against:.1e}",
        where="surrogate",
        mend="the surrogate enters the loss with a minus: -(ratio * advantages)",
    )


def _is_weighted_likelihood(case: Case, gradient: Tensor) -> bool:
    """Whether no token becomes less likely, and each the more likely the larger its advantage, as in a weighted regression."""
    each = torch.where(case.weights > 0, -gradient / case.weights, math.nan)
    rows = [row for row in case.tensors["advantages"].argsort().tolist() if bool((~each[row].isnan()).any())]
    pushed = torch.stack([each[row].nanmean() for row in rows])
    return bool((pushed >= 0).all()) and bool((pushed.diff() >= -TOLERANCE).all()) and bool(pushed[-1] > pushed[0])


def clip_ends(loss: Loss) -> Finding:
    """A loss that names the ends of its ratio stops learning from a token exactly there, or as far from 0 in its log-ratio."""
    if not isinstance(loss, PolicyGradientLoss) or loss.clip_ends() is None:
        return skipped("the loss names no ends of its ratio")
    loss = replace(loss, beta=0.0, modifiers={})
    for name, end, sign in zip(("lower", "upper"), loss.clip_ends() or (), (-1, 1), strict=False):
        if end > 0 and not any(_stops_at(loss, distance, sign) for distance in (sign * math.log(end), abs(end - 1))):
            return broken(
                f"tokens do not stop learning at the ratio {end:g}, which the loss names as its {name} end",
                number=f"{end:g}",
                where="surrogate, or clip_ends",
                mend="look whether the two ends are swapped, or one of them is used for both sides",
            )
    return passed()


def _stops_at(loss: PolicyGradientLoss, distance: float, sign: int) -> bool:
    """Whether tokens of one sign that a clip stops have a gradient up to this distance, in nats, and none beyond."""
    start, far, inside, beyond = (_learning(loss, at) for at in (0.0, distance + FAR, distance - NEAR, distance + NEAR))
    stopped = start & ~far & (_signs(loss) == sign)
    return not bool((stopped & (~inside | beyond)).any())


def _signs(loss: PolicyGradientLoss) -> Tensor:
    """Return [B, 1] the sign of each row's advantage, the direction in which its tokens should go."""
    return torch.sign(case_of(loss, tokens=TOKENS).tensors["advantages"])[:, None]


def _learning(loss: PolicyGradientLoss, distance: float) -> Tensor:
    """Return bool [B, T]: tokens with a gradient after the policy moved each by `distance` nats in its advantage's direction."""
    case = case_of(loss, tokens=TOKENS)
    mask = case.tensors["completion_mask"]
    policy = torch.where(mask, case.tensors["token_logprobs"] - LOWER, 0.0)
    before = torch.where(mask, policy - distance * _signs(loss), 0.0)
    moved = {"token_logprobs": policy, "sampling_logprobs": before, "proximal_logprobs": before, "reference_logprobs": policy}
    return case.with_tensors(**moved).gradients()[1]["token_logprobs"] != 0


def scores(loss: Loss) -> Finding:
    """Where the policy is its reference, a pair whose scores lie further apart is taught no less than one with closer scores."""
    if not isinstance(loss, PreferenceLoss) or "scores" not in loss.requires:
        return skipped("the loss reads no scores")
    case = case_of(loss, labelled=False)
    same = {f"reference.{side}": case.tensors[f"policy.{side}"] for side in ("chosen", "rejected")}
    slopes = []
    for gap in GAPS:
        scored = torch.tensor([gap, 0.0], dtype=torch.float64).expand(len(case), 2)
        _, gradients = case.with_tensors(**same, **{"policy.scores": scored}).gradients()
        slopes.append(-float(gradients["policy.chosen"].sum()))
    if slopes[1] >= slopes[0] - TOLERANCE or slopes[0] <= 0:
        return passed(f"{slopes[1] - slopes[0]:.0e}")
    return broken(
        f"pairs whose scores are {GAPS[1]:g} apart are taught less than pairs whose scores are {GAPS[0]:g} apart (the slope "
        f"along chosen completions is {slopes[1]:.3g}, and {slopes[0]:.3g})",
        number=f"{slopes[1] / slopes[0]:.2g}",
        where="compute_loss",
        mend="a score gap is what a margin is to reach: it is subtracted, -log sigmoid(beta * margin - offset(score_gap))",
    )


LOSS_LAWS: dict[str, Callable[[Loss], Finding]] = {"weights": weights, "signs": signs, "clip_ends": clip_ends, "scores": scores}


def losses(subject: Subject) -> Finding:
    """Each inner loss passes the laws of a loss: weights follow the mask, signs the advantages, clips their bounds."""
    found = [item for item in losses_of(subject.algorithm) if isinstance(item[1], (PreferenceLoss, PolicyGradientLoss))]
    if not found:
        return skipped("there is no loss of rlx within")
    count = 0
    for path, loss in found:
        for law in LOSS_LAWS.values():
            finding = law(loss)
            if finding.status == FAILED:
                return replace(finding, where=f"{finding.where} of {path} ({type(loss).__name__})")
            count += 1
    return passed(f"{count} laws")
