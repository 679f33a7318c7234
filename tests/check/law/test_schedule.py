"""A schedule ends where it shall, and random numbers are new ones at every step."""

from dataclasses import dataclass

import torch

from rlx.algorithm import LossOutput, Term
from rlx.loss.weight import token_mean
from rlx.rollout.draw import sample_groups
from tests.check.checking import failed
from tests.check.faulty import Preferences, Rewards


@dataclass(frozen=True, kw_only=True)
class LikelihoodThatEnds(Preferences):
    """A likelihood whose weight falls to 0."""

    anneal_steps: int = 50

    def share(self, step):
        return max(0.0, 1 - step / self.anneal_steps)

    def draw(self, lab):
        batch = super().draw(lab)
        even = batch.weights["preference"]
        return batch.with_weights(preference=even, likelihood=self.share(lab.step) * even)

    def compute_loss(self, policy, reference, batch):
        output, ours = super().compute_loss(policy, reference, batch), policy.pair_logprobs(batch)
        return LossOutput({**output.terms, "likelihood": Term(-ours.chosen_mean, batch.weights["likelihood"])})


class LikelihoodThatTurns(LikelihoodThatEnds):
    """Beyond the last step it goes on falling."""

    def share(self, step):
        return min(1.0, 1 - step / self.anneal_steps)


@dataclass(frozen=True, kw_only=True)
class SameDice(Rewards):
    """Prompts by the chance of success so far, and by the same random numbers at every step."""

    prompts_per_step: int = 6

    def stream(self, lab):
        return lab.rng.child("prompts of mine")

    def draw(self, lab):
        total = len(lab.task.prompts())
        success = lab.state.get("success", torch.full((total,), 0.5, dtype=torch.float64)).clone()
        chances = (success * (1 - success) + 0.1).numpy()
        rows = self.stream(lab).numpy().choice(total, size=self.prompts_per_step, replace=False, p=chances / chances.sum())
        batch = sample_groups(lab, rows, group_size=self.group_size)
        success[torch.tensor(batch.prompt_keys)] = batch.rewards.mean(dim=1).double()
        lab.state["success"] = success
        return batch.with_values(advantages=self.advantages(batch.rewards), weights=token_mean.formula(batch.loss_mask))


class NewDice(SameDice):
    def stream(self, lab):
        return super().stream(lab).child(lab.step)


class ThroughOneOrder(Rewards):
    """One order of all prompts, and a place in it that the run's state keeps."""

    def draw(self, lab):
        order = lab.rng.child("order").numpy().permutation(len(lab.task.prompts()))
        start = int(lab.state.get("place", torch.zeros(())))
        lab.state["place"] = torch.tensor(float(start + self.prompts_per_step))
        batch = sample_groups(lab, order[start : start + self.prompts_per_step], group_size=self.group_size)
        return batch.with_values(advantages=self.advantages(batch.rewards), weights=token_mean.formula(batch.loss_mask))


def test_a_weight_that_becomes_negative_is_named():
    found = failed(LikelihoodThatTurns(), "draws")["draws"]
    assert "the weights of the term likelihood are positive at step 0" in found.wrong
    assert failed(LikelihoodThatEnds(), "draws") == {}


def test_random_numbers_that_are_the_same_at_every_step_are_named():
    assert "the same random numbers choose them" in failed(SameDice(), "draws")["draws"].wrong
    assert failed(NewDice(), "draws") == {}
    assert failed(ThroughOneOrder(), "draws") == {}
