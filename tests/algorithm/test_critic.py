import numpy as np
import pytest
import torch

from rlx.algorithm.custom_grpo import explained_variance, returns_of, token_rewards
from rlx.data.sequences import Sequences
from rlx.loss.advantage.completion import group_centered
from rlx.loss.advantage.token import Gae
from rlx.rollout.rollouts import RolloutBatch
from rlx.task.base import Prompt


def batch(**tensors):
    completions = ((np.array([5, 1]), np.array([6, 7, 1])),)
    sequences = Sequences((np.array([4]),), completions)
    return RolloutBatch(
        sequences=sequences,
        prompts=(Prompt("p"),),
        prompt_keys=(0,),
        texts=(("a", "b"),),
        sampling_logprobs=torch.tensor([[[-1.0, -1.0, 0.0], [-2.0, -1.0, -0.5]]]),
        temperature=1.0,
        rewards=torch.tensor([[1.0, 3.0]]),
        reward_parts={},
        finished=torch.tensor([[True, True]]),
        kept=torch.tensor([[True, True]]),
        **tensors,
    )


def test_the_reward_lies_at_the_last_token():
    assert token_rewards(batch(), kl_in_reward=0.0, estimator="k1").tolist() == [[[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]]


def test_the_kl_is_paid_at_every_token():
    reference = torch.tensor([[[-2.0, -1.0, 0.0], [-2.0, -2.0, -0.5]]])
    paid = token_rewards(batch(reference_logprobs=reference), kl_in_reward=0.5, estimator="k1")
    # k1 = log pi - log pi0: 1, 0 and 0, 1, 0
    assert paid.tolist() == [[[-0.5, 1.0, 0.0], [0.0, -0.5, 3.0]]]


def test_returns_without_gae_are_the_rewards_to_come():
    found = returns_of(
        group_centered(), token_rewards(batch(), kl_in_reward=0.0, estimator="k1"), torch.zeros(1, 2, 3), batch().loss_mask
    )
    assert found.tolist() == [[[1.0, 1.0, 0.0], [3.0, 3.0, 3.0]]]


def test_returns_of_gae_with_lambda_one_are_the_same():
    gae = Gae(gamma=1.0, lam=1.0, whiten=True, epsilon=1e-8)
    values = torch.tensor([[[0.3, 0.2, 0.0], [0.5, -1.0, 2.0]]])
    found = returns_of(gae, token_rewards(batch(), kl_in_reward=0.0, estimator="k1"), values, batch().loss_mask)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 1.0, 0.0], [3.0, 3.0, 3.0]]]))


@pytest.mark.parametrize(
    ("values", "share"), [([[[1.0, 1.0, 0.0], [3.0, 3.0, 3.0]]], 1.0), ([[[2.0, 2.0, 0.0], [2.0, 2.0, 2.0]]], 0.0)]
)
def test_explained_variance(values, share):
    returns = torch.tensor([[[1.0, 1.0, 0.0], [3.0, 3.0, 3.0]]])
    assert explained_variance(batch(returns=returns, values=torch.tensor(values))) == pytest.approx(share)
    constant = torch.ones(1, 2, 3)
    assert explained_variance(batch(returns=constant, values=constant)) == 0.0
