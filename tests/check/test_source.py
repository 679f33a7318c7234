"""Sources of gradients: each term once, and no gradient of leaves that were not there."""

import pytest
import torch

from rlx.check.source import ComputedOnce, LeavesGrewError, OfKnownLeaves


def test_the_gradients_of_terms_are_computed_once_whatever_is_asked_for():
    asked = []

    class Source:
        batch, metrics, record = "rows", {"loss": 1.0}, None

        def __call__(self, by=None):
            asked.append(by)
            return {"a/x": [torch.tensor(1.0), None], "a/y": [torch.tensor(2.0), torch.tensor(5.0)], "b": [None, None]}

    weight = torch.zeros(1)
    source = ComputedOnce(Source(), [weight])
    assert [float(part) for part in source()["loss"]] == [3.0, 5.0]
    groups = source(by=lambda term: term.partition("/")[0])
    assert {name: [None if part is None else float(part) for part in parts] for name, parts in groups.items()} == {
        "a": [3.0, 5.0],
        "b": [None, None],
    }
    assert (asked, source.batch, source.metrics) == ([str], "rows", {"loss": 1.0})
    weight.add_(1)  # the policy has moved
    source()
    assert asked == [str, str]


def test_a_loss_that_asks_for_more_than_before_is_told():
    class Policy:
        leaves = (torch.ones(1),)

        def parameters(self):
            return list(self.leaves)

    class Source:
        batch, metrics, record = "rows", {}, None

        def __init__(self, policy):
            self.policy, self.grown = policy, False

        def __call__(self, by=None):
            if self.grown:
                self.policy.leaves = (*self.policy.leaves, torch.ones(2))
            return {"loss": [torch.ones(1)]}

    policy = Policy()
    source = Source(policy)
    watched = OfKnownLeaves(source, policy)
    assert watched()["loss"] == [torch.ones(1)]
    source.grown = True
    with pytest.raises(LeavesGrewError):
        watched()
