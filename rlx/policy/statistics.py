"""Statistics of a policy's distributions over the vocabulary, and the inputs of a preference loss made from them.

Dimensions: P prompts, G completions of a prompt, B pairs, T tokens, N completion tokens in the order of the completion mask,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.data.preferences import PairBatch
from rlx.errors import RlxError
from rlx.loss.preference.pairs import PairLogprobs

NO_STATISTICS: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """Statistics of each completion token under a policy, 0 outside of the completion mask; all [P, G, T].

    token_logprobs: log-probability of the token. The others are set only if required; they describe the distribution from which
    the token was drawn. entropy: in nats. sum_p_squared: sum over the vocabulary of p squared.
    kl_to_reference: KL(policy || reference), kl_from_reference: KL(reference || policy), over the vocabulary.
    values: the return that the value head predicts before the token is chosen.
    """

    token_logprobs: Tensor
    entropy: Tensor | None = None
    sum_p_squared: Tensor | None = None
    kl_to_reference: Tensor | None = None
    kl_from_reference: Tensor | None = None
    values: Tensor | None = None


def statistics_of(
    logprobs: Tensor, targets: Tensor, mask: Tensor, *, names: Iterable[str], reference: Tensor | None = None
) -> TokenStatistics:
    """The statistics `names` of distributions logprobs [N, V] and tokens targets [N], at the N true positions of mask [P, G, T].

    reference: [N, V] log-probabilities, for the KLs.
    """
    chosen = unflatten(logprobs.gather(-1, targets[:, None])[:, 0], mask)
    found = distribution_statistics(logprobs, names, reference=reference)
    return TokenStatistics(chosen, **{name: unflatten(values, mask) for name, values in found.items()})


def distribution_statistics(logprobs: Tensor, names: Iterable[str], *, reference: Tensor | None = None) -> dict[str, Tensor]:
    """Name -> [N] of distributions logprobs [N, V]. reference: [N, V] log-probabilities, for the KLs.

    Raises RlxError for a KL without a reference.
    """
    if reference is None and {"kl_to_reference", "kl_from_reference"} & set(names):
        raise RlxError("the KL over the vocabulary needs the reference: give token_statistics or pair_logprobs reference=...")
    return {name: _FUNCTIONS[name](logprobs, reference) for name in names}


def unflatten(values: Tensor, mask: Tensor) -> Tensor:
    """[P, G, T] with values [N] where mask is true, else 0."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


# Log-probabilities of the policy [N, V] and, for the KLs, of the reference [N, V] -> statistic [N].
_FUNCTIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "entropy": lambda ours, _: -(ours.exp() * ours).sum(-1),
    "sum_p_squared": lambda ours, _: (2 * ours).exp().sum(-1),
    "kl_to_reference": lambda ours, theirs: (ours.exp() * (ours - theirs)).sum(-1),
    "kl_from_reference": lambda ours, theirs: (theirs.exp() * (theirs - ours)).sum(-1),
}
DISTRIBUTION_STATISTICS = frozenset(_FUNCTIONS)


def pair_logprobs_of(
    batch: PairBatch, statistics: TokenStatistics, requires: frozenset[str] = NO_STATISTICS, *, mismatched: Tensor | None = None
) -> PairLogprobs:
    """Token statistics [B, 2, T] of the sequences of `batch` as the inputs of a preference loss.

    requires: the optional inputs that the loss needs. mismatched: [B, 2], see PairLogprobs.
    """
    values, device = statistics.token_logprobs, statistics.token_logprobs.device
    mask = batch.sequences.completion_mask.to(device)
    optional: dict[str, Tensor | None] = {"mismatched": mismatched}
    for name in ("scores", "label", "has_label"):
        column = getattr(batch, name)
        if column is not None and (name in requires or (name == "has_label" and "label" in requires)):
            optional[name] = column.to(device)
    per_token = {"sum_p_squared": "sum_p_squared", "entropy": "entropy", "vocabulary_kl": "kl_from_reference"}
    for name, statistic in per_token.items():
        both = getattr(statistics, statistic)
        if both is not None:
            optional[f"chosen_{name}"], optional[f"rejected_{name}"] = both.unbind(1)
    return PairLogprobs(values[:, 0], values[:, 1], mask[:, 0], mask[:, 1], **optional)
