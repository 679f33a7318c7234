"""Slips of researchers who port a paper, each in an algorithm of its own; SLIPS says which laws may name it.

They were written without a look at the laws, and passed all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput
from tests.check.faulty import Demonstrations, Preferences

_MOMENTUM: dict[str, Any] = {}


class MomentumOfTheModule(Preferences):
    """A momentum in a variable of the module."""

    def update_policy(self, gradients, optimizer):
        found, before = gradients()["loss"], _MOMENTUM.get("before")
        if before is not None and [part.shape for part in before] == [part.shape for part in found]:
            found = [0.9 * old + part for old, part in zip(before, found, strict=True)]
        _MOMENTUM["before"] = found
        return optimizer.step(found, self.clipping)


@dataclass(frozen=True, kw_only=True)
class MomentumOfTheAlgorithm(Preferences):
    """A momentum in a field of the algorithm, which meets batches of other lengths."""

    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        if "before" in self.kept:
            found = [0.9 * old + part for old, part in zip(self.kept["before"], found, strict=True)]
        self.kept["before"] = found
        return optimizer.step(found, self.clipping)


class MomentumOnTheOptimizer(Preferences):
    """A momentum in an attribute of the optimiser, which is not in its state."""

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        if hasattr(optimizer, "before"):
            found = [0.9 * old + part for old, part in zip(optimizer.before, found, strict=True)]
        optimizer.before = found
        return optimizer.step(found, self.clipping)


def spread_over(mask, values):
    """[B, T] of one value for each token where the mask holds."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)


class CrossEntropyOfProbabilities(Demonstrations):
    """The softmax is taken twice: once by hand, once by the cross entropy."""

    def compute_loss(self, policy, reference, batch):
        mask, probabilities = batch.sequences.completion_mask, policy.logits(batch.sequences).softmax(dim=-1)
        values = F.cross_entropy(probabilities, self.targets(batch.sequences), reduction="none")
        return LossOutput.of(self.sign * spread_over(mask, values)[:, 0], batch.weights["nll"])

    sign = 1

    def targets(self, sequences):
        return sequences.completion_tokens[sequences.completion_mask]


class LikelihoodOfLogitsWithAPlus(CrossEntropyOfProbabilities):
    """The sign of a likelihood that is read off the logits."""

    sign = 1

    def compute_loss(self, policy, reference, batch):
        mask, logprobs = batch.sequences.completion_mask, policy.logits(batch.sequences).log_softmax(dim=-1)
        values = logprobs.gather(-1, self.targets(batch.sequences)[:, None])[:, 0]
        return LossOutput.of(self.sign * spread_over(mask, values)[:, 0], batch.weights["nll"])


class TargetsOfThePlaceBefore(LikelihoodOfLogitsWithAPlus):
    """Logits that are shifted already are held against shifted tokens."""

    sign = -1

    def targets(self, sequences):
        tokens = sequences.completion_tokens
        return torch.cat([tokens[..., :1], tokens[..., :-1]], dim=-1)[sequences.completion_mask]


class FocalWeightIsLive(Demonstrations):
    """-p log p, whose weight p should be a constant: it falls again where a token is unlikely."""

    def compute_loss(self, policy, reference, batch):
        logprobs = policy.token_logprobs(batch.sequences)[:, 0]
        return LossOutput.of(-logprobs.exp() * logprobs, batch.weights["nll"])


SLIPS: dict[type, set[str]] = {
    MomentumOfTheModule: {"update"},
    MomentumOfTheAlgorithm: {"update"},
    MomentumOnTheOptimizer: {"update"},
    CrossEntropyOfProbabilities: {"direction"},
    LikelihoodOfLogitsWithAPlus: {"direction"},
    TargetsOfThePlaceBefore: {"direction"},
    FocalWeightIsLive: {"direction"},
}
