"""Laws of learning: what is said of a step besides that it runs."""

from dataclasses import replace

import torch

from rlx.algorithm import LossOutput, Term
from rlx.check.checker import check_algorithm
from rlx.rollout.draw import greedy_rewards
from tests.check.checking import failed, subject
from tests.check.faulty import Demonstrations, Preferences, Rewards


def test_what_is_no_fault_and_may_be_a_surprise_is_said():
    class LeavesRowsOut(Preferences):
        def updates(self, batch, rng):
            yield batch[slice(0, 5)]

    class PaysAllTheSame(Rewards):
        def draw(self, lab):
            batch = super().draw(lab)
            return replace(batch, rewards=torch.ones_like(batch.rewards))

    numbers = [next(iter(check_algorithm(subject(kind())))).finding.number for kind in (LeavesRowsOut, PaysAllTheSame)]
    assert numbers[0].endswith("updates leave out 3 of 8 rows")
    assert numbers[1].endswith("rewards are 1: nothing is learned from them")


def test_an_update_without_figures_is_named():
    class Forgets(Demonstrations):
        def update_policy(self, gradients, optimizer):
            optimizer.step(gradients()["loss"], self.clipping)

    assert failed(Forgets(), "runs")["runs"].wrong.startswith("update_policy of Forgets returns None")


def test_unlikely_tokens_that_are_left_out_on_purpose_are_no_fault():
    class WithoutUnlikelyTokens(Rewards):
        def compute_loss(self, policy, reference, batch):
            ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
            values = torch.where(ours > -2.5, -ours * batch.advantages[..., None], 0.0)
            return LossOutput({"policy": Term(values, batch.weights)})

    assert failed(WithoutUnlikelyTokens(), "direction") == {}


class OnlyGroupsWithSignal(Rewards):
    """Groups whose rewards are all equal are dropped; the baseline is the greedy reward."""

    def draw(self, lab):
        batch = super().draw(lab)
        batch = batch.take(torch.nonzero(~batch.without_signal).flatten().tolist())
        return batch.with_values(advantages=batch.rewards - greedy_rewards(lab, batch.prompts)[:, None])


class NoUpdateWithoutSignal(Rewards):
    """A draw without a group to learn from makes no update."""

    def updates(self, batch, rng):
        rows = torch.nonzero(~batch.without_signal).flatten().tolist()
        if rows:
            yield batch.take(rows)


def test_a_draw_may_hold_nothing():
    assert failed(OnlyGroupsWithSignal(), "runs", "finite", "objective") == {}
    assert failed(NoUpdateWithoutSignal(), "runs", "finite", "objective") == {}


def test_updates_that_never_come_are_named():
    class NoUpdate(Rewards):
        def updates(self, batch, rng):
            return iter(())

    assert failed(NoUpdate(), "runs")["runs"].wrong == "updates yields no batch"


class ValidateWritesState(Rewards):
    """A level that grows whenever a run measures."""

    def validate(self, lab):
        lab.state["level"] = lab.state.get("level", torch.zeros(())) + 1
        return {}


class ValidateMovesWeights(Rewards):
    """Weights that decay whenever a run measures."""

    def validate(self, lab):
        for parameter in lab.policy.parameters():
            parameter.mul_(0.999)
        return {}


class ValidateMeasures(Rewards):
    def validate(self, lab):
        return {"level": float(lab.state.get("level", torch.zeros(())))}


def test_validate_changes_nothing():
    assert "validate changes lab.state" in failed(ValidateWritesState(), "runs")["runs"].wrong
    assert "validate changes the policy's weights" in failed(ValidateMovesWeights(), "runs")["runs"].wrong
    assert failed(ValidateMeasures(), "runs") == {}
