"""Exact expectations: known estimators have the gradients that theory gives them."""

from dataclasses import replace

import pytest
import torch

import rlx
from rlx.check.exact.expectation import alone, cosine_of_vectors, expected_gradient, groups_of, measured, objectives, stated_beta
from rlx.check.exact.world import World, exact_laboratory
from rlx.loss.advantage.completion import leave_one_out
from tests.check.checking import subject
from tests.check.faulty import Rewards


def grpo(loss: str, **settings):
    algorithm = replace(rlx.load("algorithm", "custom_grpo"), loss=rlx.load("loss", loss, **settings), advantage=leave_one_out())
    return subject(alone(algorithm))


def figures(checked, *, on_policy=True, has_kl=False, beta=0.0):
    world = World.of(checked.policy, vocabulary=3, length=2)
    return measured(checked, world, on_policy=on_policy, ordered=True, has_kl=has_kl, beta=beta)


def test_reinforce_with_leave_one_out_and_sums_over_tokens_is_not_biased():
    found = figures(grpo("rloo"))
    assert found.bias < 1e-6
    assert found.scale == pytest.approx(1, abs=1e-6)
    assert found.groups == 49


def test_the_mean_over_tokens_is_biased_against_length():
    found = figures(grpo("dapo"))
    assert 0.02 < found.bias < 1
    assert found.bias**2 + found.cosine**2 == pytest.approx(1)


@pytest.mark.parametrize(
    ("estimator", "gradient", "followed"), [("k2", "plain", 0.3), ("k3", "importance_weighted", 0.3), ("k1", "plain", 0.0)]
)
def test_a_kl_in_the_loss_is_followed_with_its_beta_at_the_states_visited_or_not_at_all(estimator, gradient, followed):
    checked = grpo("rloo", beta=0.3, kl_estimator=estimator, kl_gradient=gradient)
    found = figures(checked, has_kl=True, beta=0.3)
    assert found.beta == pytest.approx(followed, abs=1e-5)
    assert followed == 0 or found.at_states


def test_a_kl_in_the_reward_is_that_of_whole_completions():
    algorithm = replace(grpo("rloo").algorithm, kl_in_reward=0.3)
    found = figures(subject(algorithm), has_kl=True, beta=stated_beta(algorithm))
    assert found.beta == pytest.approx(0.3, abs=1e-5)
    assert not found.at_states
    assert found.bias < 1e-5


def test_the_gradients_of_objectives_are_their_slopes():
    checked = grpo("rloo")
    world = World.of(checked.policy, vocabulary=3, length=2)
    exact = exact_laboratory(checked, world)
    aims = objectives(exact, beta=0.0)
    temperature = exact.sampler.temperature

    def value(logits):
        ours, theirs = world.logprobs(logits, temperature), world.logprobs(exact.reference_logits, temperature)
        return (ours.exp() * exact.rewards).sum(), (ours.exp() * (ours - theirs)).sum()

    step = torch.zeros_like(exact.logits)
    step[1, 0] = 1e-6
    ends = [value(exact.logits + step), value(exact.logits - step)]
    for which, gradient in enumerate((aims.reward, aims.kl)):
        slope = float(ends[0][which] - ends[1][which]) / 2e-6
        assert float(gradient.reshape(exact.logits.shape)[1, 0]) == pytest.approx(slope, abs=1e-8)


def test_one_order_of_a_group_stands_for_all_where_order_does_not_matter():
    checked = grpo("grpo")
    world = World.of(checked.policy, vocabulary=3, length=2)
    every, one = (expected_gradient(checked, exact_laboratory(checked, world), ordered=ordered) for ordered in (True, False))
    torch.testing.assert_close(every.mean, one.mean)
    assert (every.groups, one.groups) == (groups_of(world, 2, ordered=True), groups_of(world, 2, ordered=False)) == (49, 28)
    assert every.relative_variance == pytest.approx(one.relative_variance)


def test_a_draw_of_several_prompts_is_not_enumerated():
    checked = subject(Rewards(prompts_per_step=2, group_size=2))
    world = World.of(checked.policy, vocabulary=3, length=2)
    with pytest.raises(ValueError, match="a draw is of 2 prompts"):
        expected_gradient(checked, exact_laboratory(checked, world), ordered=True)


def test_a_cosine_of_nothing_is_0():
    assert cosine_of_vectors(torch.zeros(2), torch.ones(2)) == 0
