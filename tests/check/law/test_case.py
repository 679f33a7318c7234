import pytest
import torch

from rlx.check.law.loss import case_of
from rlx.errors import ConfigError
from rlx.loss.value import SquaredError
from tests.loss.catalogue import load


@pytest.mark.parametrize("name", ["dpo", "clipped", "clipped_entropy_bonus"])
def test_a_case_has_rows_first_and_a_gradient_for_each_leaf(name):
    case = case_of(load(name))
    assert {len(tensor) for tensor in case.tensors.values()} == {8}
    total, gradients = case.gradients()
    assert total.ndim == 0
    assert set(gradients) == set(case.leaves)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients.values())


def test_a_case_holds_an_empty_completion_and_one_of_a_single_token():
    lengths = case_of(load("clipped")).tensors["completion_mask"].sum(dim=1).tolist()
    assert {0, 1, 7} <= set(lengths)


def test_the_same_seed_gives_the_same_case_and_another_seed_another():
    first, again, other = (case_of(load("dpo"), seed=seed).total() for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_labels_only_where_they_are_wanted_and_read():
    assert "policy.label" in case_of(load("kto")).tensors
    assert "policy.label" not in case_of(load("kto"), labelled=False).tensors
    assert "policy.label" not in case_of(load("dpo")).tensors


def test_what_is_no_loss_of_pairs_or_rollouts_is_refused():
    with pytest.raises(ConfigError, match="neither a PreferenceLoss nor a PolicyGradientLoss"):
        case_of(SquaredError())
