import pytest
import torch

from rlx.check.law.loss import case_of
from rlx.errors import ShapeError
from rlx.loss import Loss, PolicyGradientLoss, PreferenceLoss
from tests.loss.catalogue import NAMES, PREFERENCE, golden_pairs, load

POLICY, REFERENCE = golden_pairs()


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_is_a_loss_of_one_of_the_two_groups(name):
    loss = load(name)
    assert isinstance(loss, Loss)
    assert isinstance(loss, PreferenceLoss) != isinstance(loss, PolicyGradientLoss)


@pytest.mark.parametrize("name", PREFERENCE)
def test_a_reference_that_is_needed_is_asked_for(name):
    loss = load(name)
    if loss.needs_reference:
        with pytest.raises(ShapeError, match="needs the reference's log-probabilities, but got None"):
            loss(POLICY, None)


def test_the_weights_are_the_mean_over_pairs():
    for mask in (POLICY.chosen_mask, torch.stack([POLICY.chosen_mask, POLICY.rejected_mask], dim=1)):
        torch.testing.assert_close(load("dpo").weights(mask), torch.full((3,), 1 / 3, dtype=torch.float64))


def test_a_batch_without_pairs_has_no_weights():
    assert load("dpo").weights(torch.zeros(0, 4, dtype=torch.bool)).shape == (0,)


def test_implicit_rewards_are_beta_times_the_log_ratio_and_carry_no_gradient():
    chosen, rejected = load("dpo", beta=0.3).implicit_rewards(POLICY, REFERENCE)
    torch.testing.assert_close(chosen, 0.3 * torch.tensor([0.25, 1.0, -0.6], dtype=torch.float64))
    torch.testing.assert_close(rejected, 0.3 * torch.tensor([-0.5, -0.75, -0.9], dtype=torch.float64))


def test_rewards_without_a_reference_are_of_the_log_probabilities_themselves():
    chosen, _ = load("simpo", beta=2).implicit_rewards(POLICY, REFERENCE)
    torch.testing.assert_close(chosen, 2 * POLICY.chosen_mean)


def test_rewards_without_a_beta_are_the_scores_themselves():
    torch.testing.assert_close(load("simper").implicit_rewards(POLICY, None)[1], POLICY.rejected_mean)


def test_policy_and_reference_must_have_the_same_pairs():
    with pytest.raises(ShapeError, match="3 pairs of the policy and 2 of the reference"):
        load("dpo")(POLICY, REFERENCE[:2])


def test_what_is_in_force_stands_on_the_instance():
    assert load("dpo").requires == frozenset()
    assert load("wpo").requires == {"sum_p_squared"}
    assert load("dpo_reference_free").needs_reference is False
    assert type(load("dpo_reference_free")).needs_reference is True


@pytest.mark.parametrize("name", PREFERENCE)
def test_a_loss_says_whether_it_reads_rejected_completions(name):
    loss = load(name)
    _, gradients = case_of(loss).gradients()
    assert loss.reads_rejected == bool(gradients["policy.rejected"].any())
