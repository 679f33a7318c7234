"""Every algorithm on conversations with an environment: what the environment says is context."""

import math

import pytest
import torch

import rlx
from rlx.errors import ConfigError
from rlx.policy.tiny import load_tiny
from rlx.rollout.draw import roll_out, sample_groups
from rlx.rollout.rollouts import RolloutBatch, best_against_worst
from tests.rollout.stand_in import Bench, sampler_of
from tests.task.environments import Counting, Failing, task_of

ALGORITHMS = (
    ["algorithm=grpo"],
    ["algorithm=grpo", "task.credit=turn", "algorithm.kl_in_reward=0.05"],
    ["algorithm=ppo"],
    ["algorithm=ppo", "task.credit=turn"],
    ["algorithm=reinforce_plus_plus"],
    ["algorithm=online_dpo"],
    ["algorithm=hybrid", "algorithm@algorithm.dpo=online_dpo", "loss@algorithm.dpo.loss=ipo"],
    ["algorithm=custom_grpo", "loss=gspo", "algorithm.updates_per_batch=2", "micro_batch=1"],
    ["algorithm=custom_grpo", "loss.beta=0.1", "algorithm.resample_attempts=1", "algorithm.filter_truncated=true"],
)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", ALGORITHMS, ids=" ".join)
def test_every_algorithm_trains_on_conversations(overrides, tmp_path):
    small = ["num_steps=2", "eval_every=null", "evaluation.num_prompts=8", "logger=[]", "threads=1", f"output_dir={tmp_path}"]
    size = ["algorithm.prompts_per_step=3", "algorithm.group_size=4"]
    if overrides[0] == "algorithm=hybrid":
        size = [f"algorithm.{term}.{name}" for term in ("dpo", "grpo") for name in ("prompts_per_step=3", "group_size=4")]
    if overrides[0] == "algorithm=ppo":
        size = ["algorithm.prompts_per_step=4"]
    result = rlx.train([*overrides, "task=guess", "policy.max_length=null", *size, *small])
    metrics = result.performance_metrics
    assert all(math.isfinite(value) for name, value in metrics.items() if "standard_error" not in name)
    assert metrics["eval/turns"] >= 1


@pytest.fixture(scope="module")
def bench():
    return Bench(load_tiny(), sampler_of(max_new_tokens=None), task_of(Counting(), max_new_tokens=6))


def test_lengths_and_costs_are_those_of_the_policys_own_tokens(bench):
    batch = sample_groups(bench, [0, 1, 2], group_size=4)
    own = batch.completion_mask.sum(dim=-1).double()
    assert float(own.sum()) < float(batch.sequences.completion_lengths.sum())
    figures = batch.figures()
    assert figures["completion_length"] == pytest.approx(float(own.mean()))
    assert batch.tokens_sampled == int(own.sum())
    assert figures["turns"] == pytest.approx(float((batch.turns.amax(dim=-1) + 1).double().mean()))


def test_groups_keep_their_masks_when_they_are_cut_joined_and_paired(bench):
    batch = sample_groups(bench, [0, 1, 2], group_size=4)
    part = RolloutBatch.join([batch.take([2]), batch.take([0])])
    for row, source in enumerate([2, 0]):
        for column in range(4):
            assert (part.sequences.learned[row][column] == batch.sequences.learned[source][column]).all()
    width = part.completion_mask.shape[-1]
    assert torch.equal(part.turns, batch.turns[[2, 0]][..., :width])
    pairs = best_against_worst(batch)
    masks = {tuple(map(bool, mask)) for group in batch.sequences.learned for mask in group}
    assert all(tuple(map(bool, mask)) in masks for group in pairs.sequences.learned for mask in group)


def test_failed_conversations_are_not_learned_from():
    bench = Bench(load_tiny(), sampler_of(max_new_tokens=None), task_of(Failing("raises"), max_new_tokens=6))
    batch = roll_out(bench, prompts_per_step=4, group_size=4, resample_attempts=0, filter_truncated=True)
    assert batch.failed.any()
    assert not batch.loss_mask[batch.failed].any()
    assert not batch.kept[~batch.finished].any()


def test_a_turn_answers_for_its_own_and_for_later_rewards():
    """Rewards 1, 2, 3 of three turns: what is to come is 6, 5, 3, and an advantage that centres is linear in it."""
    task = task_of(Counting(), max_new_tokens=6, credit="turn")
    bench = Bench(load_tiny(), sampler_of(max_new_tokens=None), task)
    batch = sample_groups(bench, [0, 1, 2, 3], group_size=6)
    algorithm = rlx.load("algorithm", "custom_grpo", advantage={"_target_": "rlx.loss.advantage.completion.group_centered"})
    found = algorithm._advantages(None, batch, batch.rewards)["advantages"]
    num_turns = (batch.turns.amax(dim=-1) + 1).tolist()
    for row, group in enumerate(num_turns):
        for turn in range(max(group)):
            to_come = torch.tensor([sum(range(turn + 1, own + 1)) for own in group], dtype=torch.float32)
            centred = to_come - to_come.mean()
            for column, own in enumerate(group):
                if turn < own:
                    values = found[row, column][batch.turns[row, column] == turn]
                    assert torch.allclose(values, centred[column].expand_as(values), atol=1e-6)
    assert len(set(map(tuple, num_turns))) > 1  # some conversations ended early


def test_pairs_have_no_turns():
    task = task_of(Counting(), max_new_tokens=6, credit="turn")
    bench = Bench(load_tiny(), sampler_of(max_new_tokens=None), task)
    with pytest.raises(ConfigError, match=r"task\.credit=turn has no meaning"):
        best_against_worst(sample_groups(bench, [0], group_size=4))
