import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.policy_gradient.base import RolloutLogprobs
from tests.loss.catalogue import golden_rollouts

G = golden_rollouts()
MASK = G["completion_mask"]
GIVEN = (G["token_logprobs"], G["sampling_logprobs"], G["advantages"], MASK, G["reference_logprobs"])


def test_everything_but_the_policy_is_constant_and_masked():
    leaves = [tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor for tensor in GIVEN]
    rollouts = RolloutLogprobs.of(*leaves)
    assert rollouts.token_logprobs.requires_grad
    assert not rollouts.sampling_logprobs.requires_grad
    assert not rollouts.advantages.requires_grad
    assert bool((rollouts.advantages[~MASK] == 0).all())


def test_the_proximal_policy_takes_the_place_of_the_sampler_in_the_ratio():
    proximal = torch.where(MASK, G["sampling_logprobs"] - 0.2, 0.0)
    plain, moved = RolloutLogprobs.of(*GIVEN), RolloutLogprobs.of(*GIVEN, proximal_logprobs=proximal)
    torch.testing.assert_close(moved.log_ratio - plain.log_ratio, torch.where(MASK, 0.2, 0.0).double())


def test_means_over_tokens_stand_at_each_token():
    rollouts = RolloutLogprobs.of(*GIVEN)
    means = rollouts.mean_over_tokens(rollouts.token_logprobs)
    assert means[1].tolist() == pytest.approx([-0.9] * 5)


def test_what_no_loss_reads_is_refused():
    with pytest.raises(ShapeError, match="cannot read values; it may read entropy"):
        RolloutLogprobs.of(*GIVEN, values=G["token_logprobs"])
