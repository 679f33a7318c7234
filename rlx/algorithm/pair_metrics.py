"""The figures that every preference algorithm logs."""

from __future__ import annotations

from torch import Tensor

from rlx.algorithm.base import mean_of
from rlx.loss.pairs import PairLogprobs


def pair_metrics(policy: PairLogprobs, rewards: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """name -> (sum, count) over pairs. rewards: ([B], [B]) implicit rewards, beta times the log-ratio, of chosen and rejected.

    rewards_chosen, rewards_rejected, margin (their difference), accuracy (share of margins above 0, ties half), and
    logprobs_chosen, logprobs_rejected: sums over the completion in nats.
    """
    chosen, rejected = rewards
    margin = chosen - rejected
    accuracy = (margin > 0).to(margin.dtype) + 0.5 * (margin == 0).to(margin.dtype)
    figures = {
        "rewards_chosen": chosen,
        "rewards_rejected": rejected,
        "margin": margin,
        "accuracy": accuracy,
        "logprobs_chosen": policy.chosen_sum,
        "logprobs_rejected": policy.rejected_sum,
    }
    return {name: mean_of(values) for name, values in figures.items()}
