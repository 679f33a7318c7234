"""The figures that every preference algorithm logs."""

from __future__ import annotations

from torch import Tensor

from rlx.algorithm.base import mean_of
from rlx.loss.base import PreferenceLoss
from rlx.loss.pairs import PairLogprobs


def pair_metrics(loss: PreferenceLoss, policy: PairLogprobs, reference: PairLogprobs | None) -> dict[str, tuple[Tensor, Tensor]]:
    """name -> (sum, count) over pairs.

    rewards_chosen, rewards_rejected (the loss's implicit rewards: beta times the log-ratio), margin (their difference), accuracy
    (share of margins above 0; what only rounding parts is a tie and counts half), and logprobs_chosen, logprobs_rejected: sums
    over the completion in nats.
    """
    chosen, rejected = loss.implicit_rewards(policy, reference)
    margin = chosen - rejected
    accuracy = (margin > 0).to(margin.dtype).masked_fill(margin.abs() <= loss.reward_rounding(policy), 0.5)
    figures = {
        "rewards_chosen": chosen,
        "rewards_rejected": rejected,
        "margin": margin,
        "accuracy": accuracy,
        "logprobs_chosen": policy.chosen_sum,
        "logprobs_rejected": policy.rejected_sum,
    }
    return {name: mean_of(values) for name, values in figures.items()}
