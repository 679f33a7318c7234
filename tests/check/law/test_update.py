"""The law of an update: its instruments."""

import torch

from rlx.algorithm.combine import added, dot, scaled
from rlx.check.law.update import RecordingOptimizer, Scaled
from rlx.optimizer.step import Clipping
from tests.check.checking import failed, subject
from tests.check.faulty import Demonstrations, StepsByHand, TimesTheRows
from tests.check.mistakes import WithReference


class TwoTerms:
    batch, metrics = None, {}

    def __call__(self, by=None):
        found = {"a": [torch.ones(2), None], "b": [torch.full((2,), 3.0), torch.ones(1)]}
        assert by is str
        return found


def test_one_term_is_turned_and_the_groups_that_were_asked_for_are_made():
    turned = Scaled(TwoTerms(), {"a": -1.0})
    assert [part.tolist() for part in turned()["loss"]] == [[2.0, 2.0], [1.0]]
    apart = turned(by=str)
    assert apart["a"][0].tolist() == [-1.0, -1.0]
    assert apart["a"][1] is None


def test_a_recording_optimiser_steps_and_keeps_what_it_was_given():
    checked = subject(Demonstrations())
    laboratory = checked.stand_in()
    checked.loss(laboratory, checked.first_update(laboratory))
    leaf = laboratory.policy.parameters()[0]
    before, optimizer = leaf.detach().clone(), RecordingOptimizer.of(laboratory, 0.5)
    optimizer.step([torch.ones_like(leaf)], Clipping())
    torch.testing.assert_close(leaf.detach(), before - 0.5)
    assert len(optimizer.given) == 1


def test_what_is_wrong_is_said_in_numbers():
    assert "an update of 8 rows moves the policy 8 times as far" in failed(TimesTheRows(), "update")["update"].wrong
    assert failed(StepsByHand(), "update")["update"].example.startswith("max_grad_norm = ")


class TakesAConflictAway(WithReference):
    """What lies along the gradient of the penalty is taken away of the policy's where both conflict (arXiv:2001.06782)."""

    sign = -1.0

    def update_policy(self, gradients, optimizer):
        found = gradients(by=str)
        policy, kl = (
            [torch.zeros_like(p) if g is None else g for p, g in zip(optimizer.parameters, each, strict=True)]
            for each in found.values()
        )
        overlap = dot(policy, kl)
        if overlap < 0:
            policy = added([policy, scaled(kl, self.sign * overlap / dot(kl, kl))])
        return optimizer.step(added([policy, kl]), self.clipping)


class AddsToAConflict(TakesAConflictAway):
    """With the wrong sign."""

    sign = 1.0


class AsLongAsBoth(WithReference):
    """The sum of the gradients, as long as both norms together."""

    def update_policy(self, gradients, optimizer):
        found = list(gradients(by=str).values())
        whole = added(found)
        wanted = sum(dot(each, each).sqrt() for each in found)
        return optimizer.step(scaled(whole, wanted / (dot(whole, whole).sqrt() + 1e-12)), self.clipping)


def test_a_projection_with_the_wrong_sign_is_named():
    assert "a conflict is added to" in failed(AddsToAConflict(), "update")["update"].wrong
    for sound in (TakesAConflictAway, AsLongAsBoth):
        assert failed(sound(), "update") == {}
