"""Estimates of the KL are judged on a vocabulary small enough to sum over."""

import pytest
import torch

from rlx.errors import ConfigError
from rlx.loss.policy_gradient.kl import ESTIMATES, GRADIENTS, k3, rewards_with_kl, token_kl, token_rewards_with_kl
from rlx.loss.policy_gradient.token import reinforce
from tests.loss.catalogue import golden_rollouts, load

G = golden_rollouts()
MASK = G["completion_mask"]
GOLDEN = {"k1": -0.0357142857, "k2": 0.0310714286, "k3": 0.0337855910}
V = 6
RNG = torch.Generator().manual_seed(1)
LOGITS, REFERENCE_LOGITS, SAMPLING_LOGITS = (torch.randn(V, generator=RNG, dtype=torch.float64) for _ in range(3))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(name):
    estimate = ESTIMATES[name](G["token_logprobs"], G["reference_logprobs"])
    assert estimate[MASK].mean().item() == pytest.approx(GOLDEN[name], abs=5e-11)


def expectation(estimator: str, gradient: str, *, sampling: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean of the estimate, mean of its gradient) over tokens drawn from `sampling`, summed over the vocabulary."""
    logits = LOGITS.clone().requires_grad_()
    policy, reference = logits.log_softmax(0), REFERENCE_LOGITS.log_softmax(0)
    estimate = token_kl(policy, reference, sampling.log_softmax(0), estimator=estimator, gradient=gradient)
    mean = (sampling.softmax(0) * estimate).sum()
    return mean.detach(), torch.autograd.grad(mean, logits)[0]


def exact(reverse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(policy || reference), or the other way round, and its gradient."""
    logits = LOGITS.clone().requires_grad_()
    policy, reference = logits.log_softmax(0), REFERENCE_LOGITS.log_softmax(0)
    first, second = (reference, policy) if reverse else (policy, reference)
    kl = (first.exp() * (first - second)).sum()
    return kl.detach(), torch.autograd.grad(kl, logits)[0]


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    for name in ("k1", "k3"):
        torch.testing.assert_close(expectation(name, "plain", sampling=LOGITS)[0], exact()[0])
    assert abs(expectation("k2", "plain", sampling=LOGITS)[0] - exact()[0]) > 1e-3


def test_the_plain_gradients_are_nothing_the_right_one_and_that_of_the_other_kl():
    torch.testing.assert_close(expectation("k1", "plain", sampling=LOGITS)[1], torch.zeros(V, dtype=torch.float64))
    torch.testing.assert_close(expectation("k2", "plain", sampling=LOGITS)[1], exact()[1])
    torch.testing.assert_close(expectation("k3", "plain", sampling=LOGITS)[1], exact(reverse=True)[1])


@pytest.mark.parametrize("estimator", ["k1", "k3"])
@pytest.mark.parametrize("gradient", ["importance_weighted", "score_function", "straight_through"])
def test_the_three_repairs_give_the_right_gradient_on_policy(estimator, gradient):
    torch.testing.assert_close(expectation(estimator, gradient, sampling=LOGITS)[1], exact()[1])


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_importance_weights_are_right_off_policy_too_in_value_and_gradient(estimator):
    found = expectation(estimator, "importance_weighted", sampling=SAMPLING_LOGITS)
    torch.testing.assert_close(found, exact())


@pytest.mark.parametrize("gradient", ["score_function", "straight_through"])
@pytest.mark.parametrize("estimator", ESTIMATES)
def test_these_repairs_leave_the_value(estimator, gradient):
    given = (G["token_logprobs"], G["reference_logprobs"], G["sampling_logprobs"])
    repaired = token_kl(*given, estimator=estimator, gradient=gradient)
    torch.testing.assert_close(repaired, token_kl(*given, estimator=estimator, gradient="plain"))


def test_k3_is_capped_where_the_reference_is_far_likelier_and_still_pulls_where_the_policy_is():
    token = torch.tensor([-1e4, -0.1], requires_grad=True)
    value = k3(token, torch.tensor([-1.0, -1e4]))
    (gradient,) = torch.autograd.grad(value.sum(), token)
    assert bool(torch.isfinite(value).all())
    assert gradient.tolist() == [0, 1]


def test_in_the_reward_the_kl_is_summed_over_the_completion():
    shaped = [G[name][None] for name in ("token_logprobs", "reference_logprobs", "completion_mask")]
    rewards = torch.tensor([[1.0, 0, 0.5, 0]], dtype=torch.float64)
    k1 = (G["token_logprobs"] - G["reference_logprobs"]).masked_fill(~MASK, 0).sum(dim=1)
    torch.testing.assert_close(rewards_with_kl(rewards, *shaped, beta=0.1, estimator="k1"), rewards - 0.1 * k1)


def test_as_a_reward_only_k1_has_the_policy_gradient_of_the_kl():
    logits = LOGITS.clone().requires_grad_()
    policy, reference = logits.log_softmax(0), REFERENCE_LOGITS.log_softmax(0)

    def policy_gradient(estimator: str) -> torch.Tensor:
        token = torch.ones(V, 1, dtype=torch.bool)
        shaped = (policy[:, None], reference[:, None], token)
        penalties = -rewards_with_kl(torch.zeros(V, dtype=torch.float64), *shaped, beta=1.0, estimator=estimator)
        return torch.autograd.grad((policy.detach().exp() * policy * penalties).sum(), logits, retain_graph=True)[0]

    torch.testing.assert_close(policy_gradient("k1"), exact()[1])
    torch.testing.assert_close(policy_gradient("k3"), exact()[1] - exact(reverse=True)[1])
    assert (policy_gradient("k2") - exact()[1]).abs().max() > 1e-2


def test_at_tokens_the_reward_stands_at_the_last_one():
    given = (G["token_logprobs"], G["reference_logprobs"], MASK)
    tokens = token_rewards_with_kl(torch.arange(4.0), *given, beta=0.1, estimator="k1")
    k1 = (G["token_logprobs"] - G["reference_logprobs"]).masked_fill(~MASK, 0)
    bare = tokens + 0.1 * k1
    assert [row.nonzero().flatten().tolist() for row in bare.abs() > 1e-12] == [[], [1], [2], [4]]
    torch.testing.assert_close(bare.sum(dim=1), torch.arange(4.0).double())


@pytest.mark.parametrize("estimator", ESTIMATES)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_choice_is_open_to_every_loss_where_its_gradient_is_that_of_a_kl(estimator, gradient):
    given = {"beta": 0.1, "kl_estimator": estimator, "kl_gradient": gradient}
    if estimator != "k2" or gradient in ("plain", "straight_through"):
        assert load("reinforce", **given).needs_reference
        return
    with pytest.raises(ConfigError, match="set kl_gradient=plain"):
        reinforce(**given)


@pytest.mark.parametrize("gradient", ["importance_weighted", "score_function"])
def test_k2_with_the_score_function_has_another_gradient_than_the_kl(gradient):
    off = expectation("k2", gradient, sampling=LOGITS)[1] - exact()[1]
    assert off.norm() > 0.1 * exact()[1].norm()
