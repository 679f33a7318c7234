"""The instruments of laws of an update."""

from functools import partial

import torch

from rlx.check.law.step import Changed, RecordingOptimizer, planted_in, scaled
from rlx.optimizer.step import Clipping
from tests.check.checking import subject
from tests.check.faulty import Demonstrations


class TwoTerms:
    batch, metrics = None, {}

    def __call__(self, by=None):
        found = {"a": [torch.ones(2), None], "b": [torch.full((2,), 3.0), torch.ones(1)]}
        assert by is str
        return found


def test_one_term_is_turned_and_the_groups_that_were_asked_for_are_made():
    turned = Changed(TwoTerms(), partial(scaled, factors={"a": -1.0}))
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


def test_planted_gradients_stand_in_the_place_of_those_of_their_terms():
    planted = Changed(TwoTerms(), partial(planted_in, gradients={"b": [torch.full((2,), 5.0), torch.ones(1)]}))
    assert [part.tolist() for part in planted()["loss"]] == [[5.0, 5.0], [1.0]]
    assert [part.tolist() for part in planted(by=str)["a"]] == [[0.0, 0.0], [0.0]]
