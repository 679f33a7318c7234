import dataclasses

import numpy as np
import pytest
import torch

import rlx
from rlx.algorithm.base import Need
from rlx.algorithm.custom_grpo import threshold_accuracy
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError, RlxError
from rlx.policy.reference import vocabulary_kl
from rlx.policy.tiny import build_tiny
from rlx.seeding import Stream
from rlx.task.base import Prompt, Task
from rlx.training.gradients import AccumulatedGradients

pytestmark = pytest.mark.whole

PRESETS = ["custom_grpo", "grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_plus_plus", "ppo"]


def made(name="custom_grpo", **changes):
    group = {"group_size": 4} if name not in ("ppo", "reinforce_plus_plus") else {}
    return rlx.load("algorithm", name, **{"prompts_per_step": 6, **group, **changes})


@pytest.fixture
def rewarded(lab, monkeypatch):
    """A task whose rewards differ within a group, so that there is signal."""
    monkeypatch.setattr(
        type(lab.task), "reward", lambda self, prompt, completion: {"reward": float(sum(map(ord, completion)) % 3)}
    )
    task = rlx.load("task", "arithmetic", max_operand=20, max_new_tokens=4)
    policy = lab.policy
    if policy.value_head is None:
        policy.add_value_head()
        torch.nn.init.normal_(policy.value_head.linear.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(lab, task=task)


@pytest.mark.parametrize("name", PRESETS)
def test_a_draw_carries_no_gradient_and_its_loss_is_finite(rewarded, name):
    algorithm = made(name)
    batch = algorithm.draw(rewarded)
    assert len(batch) == 6
    assert not any(tensor.requires_grad for tensor in vars(batch).values() if isinstance(tensor, torch.Tensor))
    for part in algorithm.updates(batch, Stream(0)):
        output = algorithm.compute_loss(rewarded.policy, rewarded.reference, part)
        assert torch.isfinite(output.loss)
        assert output.loss.requires_grad
        assert {"ratio_mean", "entropy"} <= output.metrics.keys()


def test_on_policy_the_ratio_is_one_and_the_loss_is_minus_the_weighted_advantage(rewarded):
    algorithm = made()
    batch = algorithm.draw(rewarded)
    output = algorithm.compute_loss(rewarded.policy, rewarded.reference, batch)
    total, count = output.metrics["ratio_mean"]
    assert (total / count).item() == pytest.approx(1.0, abs=1e-5)
    expected = -(batch.weights * batch.advantages[..., None]).sum().item()
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)


def test_the_advantages_are_those_of_the_formula(rewarded):
    batch = made().draw(rewarded)
    rewards = batch.rewards
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
    live = ~batch.without_signal
    torch.testing.assert_close(batch.advantages[live], expected[live], atol=1e-5, rtol=1e-5)
    assert not batch.advantages[~live].any()
    assert batch.metrics["advantage_std"] == pytest.approx(batch.advantages.double().std(correction=0).item())


def test_passes_and_minibatches_cover_the_draw_and_are_weighed_as_what_they_are(rewarded):
    algorithm = made(updates_per_batch=3, minibatches=2)
    batch = algorithm.draw(rewarded)
    parts = list(algorithm.updates(batch, Stream(5)))
    assert len(parts) == 6
    for number in range(3):
        keys = [key for part in parts[2 * number : 2 * number + 2] for key in part.prompt_keys]
        assert sorted(keys) == sorted(batch.prompt_keys)
    assert all(part.weights.sum().item() == pytest.approx(1.0) for part in parts)
    assert [part.prompt_keys for part in parts] == [part.prompt_keys for part in algorithm.updates(batch, Stream(5))]
    assert [part.prompt_keys for part in parts] != [part.prompt_keys for part in algorithm.updates(batch, Stream(6))]


def test_the_same_address_draws_the_same_batch(rewarded):
    first, second = (made().draw(rewarded) for _ in range(2))
    assert first.texts == second.texts
    assert torch.equal(first.sampling_logprobs, second.sampling_logprobs)
    other = made().draw(dataclasses.replace(rewarded, step=1))
    assert other.prompt_keys != first.prompt_keys


@pytest.mark.parametrize(
    ("estimator", "estimate"), [("k1", lambda d: d), ("k2", lambda d: d**2 / 2), ("k3", lambda d: d.expm1() - d)]
)
def test_a_kl_in_the_reward_lowers_it_by_beta_times_the_estimate(rewarded, estimator, estimate):
    plain, held = made(kl_in_reward=0.0), made(kl_in_reward=0.5, kl_in_reward_estimator=estimator)
    batch = held.draw(rewarded)
    sign = -1 if estimator == "k3" else 1
    log_ratio = sign * (batch.sampling_logprobs - batch.reference_logprobs)
    assert log_ratio[batch.loss_mask].abs().max() > 0.01
    penalties = estimate(log_ratio) * batch.loss_mask
    expected = plain.advantage((batch.rewards - 0.5 * penalties.sum(-1)).float())
    torch.testing.assert_close(batch.advantages.float(), expected, atol=1e-4, rtol=1e-4)


def test_ppo_learns_values(rewarded):
    algorithm = made("ppo")
    batch = algorithm.draw(rewarded)
    assert batch.values.shape == batch.returns.shape == batch.completion_mask.shape
    output = algorithm.compute_loss(rewarded.policy, rewarded.reference, batch)
    gradients = torch.autograd.grad(output.terms["value"].total, list(rewarded.policy.value_head.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    last = batch.loss_mask & (batch.loss_mask.cumsum(-1) == batch.loss_mask.sum(-1, keepdim=True))
    # at the last token the return is the reward itself
    torch.testing.assert_close(batch.returns[last].float(), batch.rewards.reshape(-1), atol=1e-5, rtol=1e-5)


def test_values_without_a_value_head_are_refused(rewarded):
    bare = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match="no value head"):
        made("ppo").draw(dataclasses.replace(rewarded, policy=bare))


def test_needs_follow_the_hyperparameters():
    assert made().active_needs == {Need.REWARDS}
    assert made(kl_in_reward=0.1).active_needs == {Need.REWARDS, Need.REFERENCE}
    assert made(**{"loss.beta": 0.1}).active_needs == {Need.REWARDS, Need.REFERENCE}
    assert Need.VALUES in made(value_loss_weight=0.1).active_needs
    assert Need.VALUES in made("ppo", value_loss_weight=0.0).active_needs


def test_a_threshold_is_a_share_of_held_out_prompts(rewarded, monkeypatch):
    monkeypatch.setattr(type(rewarded.task), "reward", lambda self, prompt, completion: {"reward": float(prompt.text[0] == "1")})
    prompts = rewarded.task.held_out_prompts()
    share = sum(prompt.text[0] == "1" for prompt in prompts) / len(prompts)
    assert threshold_accuracy(rewarded, 0.5) == pytest.approx(share)
    assert made(reward_threshold=0.5).validate(rewarded) == {"accuracy_at_threshold": pytest.approx(share)}
    assert made().validate(rewarded) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, r"algorithm\.group_size is 1; advantage group_standardized needs at least 2"),
        ({"minibatches": 7}, "a minibatch holds at least one prompt"),
        ({"kl_in_reward": -1.0}, "distance from the reference"),
        ({"kl_in_reward_estimator": "exact"}, "it must be one of k1, k2, k3"),
        ({"value_loss_weight": -1.0}, "critic"),
        ({"loss.clip_low": 2.0}, "clip_low"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(RlxError, match=message):
        made(**changes)


def test_the_gradient_and_the_kl_estimate_what_enumeration_gives(lab):
    """All 9703 completions of up to two tokens: the expected reward's gradient and the KL, exactly, against 16 draws."""

    class Digits(Task):
        offers, score = frozenset({"rewards"}), "accuracy"

        def prompts(self):
            return [Prompt("ab")]

        def reward(self, prompt, completion):
            return {"reward": float(sum(map(ord, completion)) % 7)}

    policy, task = lab.policy, Digits(name="digits", max_new_tokens=2)
    end, vocabulary = policy.eos_token_ids[0], range(policy.vocabulary_size)
    every = [np.array([end])] + [np.array([a, b]) for a in vocabulary if a != end for b in vocabulary]
    sequences = Sequences((policy.encode_prompt("ab"),), (tuple(every),))
    rewards = torch.tensor([task.reward(None, policy.decode(completion))["reward"] for completion in every]).double()
    logprobs = policy.token_logprobs(sequences)[0].sum(-1)
    parameters = list(policy.model.parameters())
    exact = flat(torch.autograd.grad((logprobs.exp() * rewards).sum(), parameters))
    with torch.no_grad():
        kl = (logprobs.exp() * (logprobs - lab.reference.token_logprobs(sequences)[0].sum(-1))).sum().item()
    algorithm, lengths, drifts = made("rloo", prompts_per_step=1, group_size=1024), [], []
    for step in range(16):
        here = dataclasses.replace(lab, task=task, step=step)
        batch = algorithm.draw(here)
        source = AccumulatedGradients(algorithm, policy, lab.reference, batch, micro_batch=None)
        lengths.append((-flat(source()["loss"][: len(parameters)]) @ exact / (exact @ exact)).item())
        drifts.append(vocabulary_kl(policy, lab.reference, batch.sequences)[0].detach().sum().item() / 1024)
    for estimates, truth in ((lengths, 1.0), (drifts, kl)):
        assert np.mean(estimates) == pytest.approx(truth, abs=4 * np.std(estimates, ddof=1) / 16**0.5)
        assert np.std(estimates) < 0.7 * truth  # else the check above says little


def flat(gradients):
    return torch.cat([gradient.detach().reshape(-1) for gradient in gradients])
