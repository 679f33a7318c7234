"""The laws of conversations on shipped algorithms, and on planted faults."""

import functools
from dataclasses import replace

import pytest
import torch

import rlx
from rlx.algorithm.base import LossOutput, Need
from rlx.algorithm.custom_grpo import CustomGrpo
from rlx.check.checker import LAWS, check_algorithm
from rlx.check.finding import NOT_APPLICABLE
from rlx.check.subject import Subject
from rlx.data.sequences import Sequences
from rlx.policy.tiny import build_tiny
from rlx.training.gradients import AccumulatedGradients
from tests.task.environments import Counting, task_of

pytestmark = pytest.mark.whole

HYPERPARAMETERS = dict(vars(rlx.load("algorithm", "grpo")))


def failed(algorithm, *laws, credit="episode", environment=None):
    """Law -> finding, of those that are broken on conversations."""
    policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    if Need.VALUES in algorithm.active_needs:
        policy.add_value_head()
    task = task_of(environment or Counting(), max_new_tokens=6, num_prompts=40, credit=credit, full_reward=None)
    optimizer = functools.partial(torch.optim.AdamW, lr=1e-3)
    subject = Subject(algorithm, task, policy, rlx.load("rollout", "transformers"), AccumulatedGradients, optimizer)
    wanted = {name: LAWS[name] for name in laws or LAWS}
    verdicts = list(check_algorithm(subject, laws=wanted))
    assert laws == () or all(verdict.finding.status != NOT_APPLICABLE for verdict in verdicts), verdicts
    return {verdict.law: verdict.finding for verdict in verdicts if verdict.failed}


class LearnsTheEnvironment(CustomGrpo):
    """Puts the sequences together anew, and forgets which tokens the policy wrote."""

    def draw(self, lab):
        batch = super().draw(lab)
        forgetful = Sequences(batch.sequences.prompts, batch.sequences.completions, batch.sequences.width)
        batch = replace(batch, sequences=forgetful)
        ones = torch.ones_like(batch.sampling_logprobs)
        return batch.with_values(weights=self.loss.weights(batch.loss_mask), advantages=ones)


class CountsTheEnvironment(CustomGrpo):
    """Divides by the length of the conversation, the words of the environment among it."""

    def draw(self, lab):
        batch = super().draw(lab)
        lengths = batch.sequences.completion_lengths.reshape(batch.rewards.shape)
        return batch.with_values(weights=batch.loss_mask / lengths[..., None].clamp(min=1) / batch.rewards.numel())


class DividesByTheConversation(CustomGrpo):
    """Divides by the length of the conversation in the loss itself."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=torch.full_like(batch.rewards, 1 / batch.rewards.numel()))

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        ratio = (ours - batch.sampling_logprobs).clamp(-20, 20).exp()
        taught = ratio * batch.advantages[..., None] * batch.loss_mask * self.by_place(batch)
        return LossOutput.of(-taught.sum(dim=-1) / self.lengths(batch).clamp(min=1), batch.weights)

    def lengths(self, batch):
        return batch.sequences.completion_lengths

    def by_place(self, batch):
        return 1


class DividesByTheWords(DividesByTheConversation):
    """Its mean goes over the mask of all tokens."""

    def lengths(self, batch):
        return batch.sequences.token_mask.sum(dim=-1)


class DividesByItsOwn(DividesByTheConversation):
    """As it is meant."""

    def lengths(self, batch):
        return batch.loss_mask.sum(dim=-1)


class DecaysWithThePlace(DividesByItsOwn):
    """Later tokens of a conversation teach less, wherever they stand in it."""

    def by_place(self, batch):
        return 0.9 ** torch.arange(batch.loss_mask.shape[-1])


class PaysTheNextTurn(CustomGrpo):
    """Gives the reward of a turn to the turn after it."""

    def _advantages(self, lab, batch, rewards):
        late = torch.zeros_like(batch.token_rewards)
        for turn in range(int(batch.turns.max())):
            paid = torch.where(batch.turns == turn, batch.token_rewards, 0.0).sum(dim=-1)
            first = (batch.turns == turn + 1) & ((batch.turns == turn + 1).cumsum(dim=-1) == 1)
            late = late + first * paid[..., None]
        return super()._advantages(lab, replace(batch, token_rewards=late), rewards)


class PaysWhatComesAfter(CustomGrpo):
    """Leaves the reward at a token out of the return of that token."""

    def _advantages(self, lab, batch, rewards):
        to_come = batch.token_rewards.sum(dim=-1, keepdim=True) - batch.token_rewards.cumsum(dim=-1)
        return {"advantages": (to_come - to_come.mean(dim=1, keepdim=True)) * batch.loss_mask}


@pytest.mark.parametrize("name", ["grpo", "online_dpo", "ppo", "reinforce_plus_plus"])
def test_shipped_algorithms_learn_no_word_of_the_environment(name):
    assert failed(rlx.load("algorithm", name), "context") == {}


@pytest.mark.parametrize("name", ["grpo", "ppo", "reinforce_plus_plus"])
def test_shipped_algorithms_pay_the_turn_that_earned(name):
    assert failed(rlx.load("algorithm", name), "turns", credit="turn") == {}


def test_tokens_of_the_environment_that_count_in_a_length_are_named():
    found = failed(CountsTheEnvironment(**HYPERPARAMETERS), "context")["context"]
    assert "in which what the environment said counts" in found.wrong
    assert failed(rlx.load("algorithm", "gspo"), "context") == {}  # a mean over each sequence


@pytest.mark.parametrize("kind", [DividesByTheConversation, DividesByTheWords])
def test_a_length_that_the_loss_itself_takes_is_named(kind):
    found = failed(kind(**HYPERPARAMETERS), "context")["context"]
    assert "what the environment said counts in a length or a mean" in found.wrong
    assert "test_conversation.py" in found.where
    for sound in (DividesByItsOwn, DecaysWithThePlace):
        assert failed(sound(**HYPERPARAMETERS), "context") == {}


def test_tokens_of_the_environment_that_are_learned_are_named():
    finding = failed(LearnsTheEnvironment(**HYPERPARAMETERS), "context")["context"]
    assert "tokens that the environment said in a conversation are learned" in finding.wrong


def test_a_reward_that_the_next_turn_gets_is_named():
    finding = failed(PaysTheNextTurn(**HYPERPARAMETERS), "turns", credit="turn")["turns"]
    assert "moves the advantages of later turns" in finding.wrong
    finding = failed(PaysWhatComesAfter(**HYPERPARAMETERS), "turns", credit="turn")["turns"]
    assert "does not move the advantage of the last token of that turn" in finding.wrong


def test_single_answers_have_no_conversations_to_look_at():
    from tests.check.checking import subject

    for verdict in check_algorithm(
        subject(rlx.load("algorithm", "grpo")), laws={"context": LAWS["context"], "turns": LAWS["turns"]}
    ):
        assert verdict.finding.status == NOT_APPLICABLE


def test_a_conversation_goes_on_after_an_empty_turn():
    assert failed(rlx.load("algorithm", "grpo"), "finite") == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "credit"), [("grpo", "episode"), ("grpo", "turn"), ("ppo", "episode"), ("ppo", "turn"),
                                              ("online_dpo", "episode")])  # fmt: skip
def test_shipped_algorithms_keep_every_law_on_conversations(name, credit):
    assert failed(rlx.load("algorithm", name), credit=credit) == {}


def test_conversations_that_begin_alike_are_told_apart():
    policy, task = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2), rlx.load("task", "guess")
    assert len({prompt.text for prompt in task.prompts()}) == 1
    optimizer = functools.partial(torch.optim.AdamW, lr=1e-3)
    sampler = rlx.load("rollout", "transformers")
    subject = Subject(rlx.load("algorithm", "online_dpo"), task, policy, sampler, AccumulatedGradients, optimizer)
    assert not any(verdict.failed for verdict in check_algorithm(subject, laws={"draws": LAWS["draws"]}))


class CentredOverTheBatch(CustomGrpo):
    """Rewards less the mean over the batch, whose conversations go on otherwise where a turn is drawn in another order."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=batch.rewards - batch.rewards.mean())


def test_conversations_that_go_on_otherwise_may_count_in_a_mean():
    assert failed(CentredOverTheBatch(**HYPERPARAMETERS), "order") == {}
