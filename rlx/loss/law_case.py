"""Random batches on which the laws of losses are tried: every input a loss may ask for, as named tensors with rows first.

Dimensions: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.loss.base import Loss, PreferenceLoss
from rlx.loss.pairs import PairLogprobs
from rlx.loss.policy_gradient_base import PolicyGradientLoss
from rlx.seeding import Stream

Tensors = Mapping[str, Tensor]
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Case:
    """A batch for a loss: `evaluate(tensors)` calls the loss on tensors named as in `tensors`, all or some of the rows.

    leaves: names of those a gradient is taken of; tokenwise: names of those whose last axis is tokens; masks likewise, bool.
    weight_mask: name of the mask that the loss's weights are computed from.
    """

    loss: Loss
    tensors: Tensors
    leaves: tuple[str, ...]
    tokenwise: tuple[str, ...]
    evaluate: Callable[[Tensors], Tensor]
    weight_mask: str

    def __len__(self) -> int:
        return len(self.tensors[self.weight_mask])

    @property
    def weights(self) -> Tensor:
        """The weights of all rows."""
        return self.loss.weights(self.tensors[self.weight_mask])

    def with_tensors(self, **changed: Tensor) -> Case:
        """This case with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **changed})

    def at(self, rows: slice | Tensor) -> Case:
        """The rows at a slice or an index."""
        return replace(self, tensors={name: tensor[rows] for name, tensor in self.tensors.items()})

    def total(self) -> Tensor:
        """[] the loss."""
        return (self.weights * self.evaluate(self.tensors)).sum()

    def gradients(self) -> tuple[Tensor, dict[str, Tensor]]:
        """([] the loss, leaf -> its gradient, 0 where the loss does not depend on it)."""
        leaves = {name: self.tensors[name].detach().clone().requires_grad_() for name in self.leaves}
        total = self.with_tensors(**leaves).total()
        if not total.requires_grad:
            return total, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        given = zip(leaves.items(), found, strict=True)
        return total.detach(), {name: torch.zeros_like(leaf) if grad is None else grad for (name, leaf), grad in given}


def case_of(loss: Loss, *, rows: int = 8, tokens: int = 7, seed: int = 0, labelled: bool = True, spread: float = 0.5) -> Case:
    """A random batch in float64 for a preference or a policy-gradient loss.

    spread: how far policy, sampler and reference lie apart, in nats a token. labelled: give labels to a loss that can read them;
    without them, and in the scores, the chosen completion is the better one.
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
    """bool [B, T]; the last row is empty, the one before has a single token."""
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
    tokenwise = tuple(tensors)
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

    return Case(loss, tensors, leaves, tokenwise, evaluate, "policy.chosen_mask")


def _rollouts(loss: PolicyGradientLoss, rows: int, tokens: int, rng: torch.Generator, spread: float) -> Case:
    mask = _mask(rows, tokens, rng)
    policy = _logprobs(mask, rng)
    tensors = {"token_logprobs": policy, "completion_mask": mask}
    for name in ("sampling_logprobs", "reference_logprobs"):
        tensors[name] = _moved(policy, mask, rng, spread)
    proximal = _moved(tensors["sampling_logprobs"], mask, rng, spread / 2)
    agreeing = torch.arange(rows)[:, None] % 2 == 0  # the sampler agrees with the trainer on every other row
    tensors["proximal_logprobs"] = torch.where(agreeing, tensors["sampling_logprobs"], proximal)
    tensors["entropy"] = 2 * torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    tensors["vocabulary_kl"] = torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    tokenwise = tuple(tensors)
    tensors["advantages"] = 2 * torch.randn(rows, generator=rng, dtype=torch.float64)
    leaves = ("token_logprobs", *sorted(loss.requires & {"entropy", "vocabulary_kl"}))

    def evaluate(given: Tensors) -> Tensor:
        required: dict[str, Any] = {name: given[name] for name in loss.requires - {"rng"}}
        if "rng" in loss.requires:
            required["rng"] = Stream(0, ("laws", "rng")).torch()
        reference = given["reference_logprobs"] if loss.needs_reference else None
        arguments = (given["token_logprobs"], given["sampling_logprobs"], given["advantages"], given["completion_mask"])
        return loss(*arguments, reference, **required)

    return Case(loss, tensors, leaves, tokenwise, evaluate, "completion_mask")


def differs(name: str, found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> str | None:
    """What to say if two tensors are not equal to rounding, relative to the largest number in them."""
    scale = max(1.0, float(expected.abs().max()) if expected.numel() else 0.0)
    gap = float((found - expected).abs().max()) if expected.numel() else 0.0
    return None if gap <= tolerance * scale else f"{name} differs by {gap:.2e} (of {scale:.2e})"


def first(*messages: str | None) -> str | None:
    """The first message there is."""
    return next((message for message in messages if message is not None), None)
