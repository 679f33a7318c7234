from dataclasses import replace

import pytest
import torch

from rlx.errors import ConfigError, ShapeError
from rlx.loss.preference.batch import aot
from rlx.loss.preference.completion import apo_zero
from rlx.loss.preference.margin import dpo
from rlx.loss.preference.modifier import Humanline, LengthDesensitized, PolicyWeighting, ReferenceFree, length_desensitized
from rlx.loss.preference.reference_free import simper
from tests.loss.catalogue import golden_pairs, load

POLICY, REFERENCE = golden_pairs()


def test_length_desensitising_scales_what_exceeds_the_shorter_completion():
    changed = length_desensitized(POLICY, alpha=0.25)
    # lengths: chosen 3, 2, 2; rejected 4, 3, 3; so the last token of each rejected completion counts a quarter
    torch.testing.assert_close(changed.chosen, POLICY.chosen)
    torch.testing.assert_close(
        changed.rejected_sum, POLICY.rejected_sum + 0.75 * torch.tensor([0.25, 0.5, 1.6], dtype=torch.float64)
    )
    torch.testing.assert_close(changed.rejected_length, POLICY.rejected_length)


def test_length_desensitising_of_one_is_no_change():
    plain, modified = dpo(beta=0.1), dpo(beta=0.1, modifiers={"ld": LengthDesensitized(alpha=1)})
    torch.testing.assert_close(modified(POLICY, REFERENCE), plain(POLICY, REFERENCE))


def test_reference_free_reads_log_probabilities_and_needs_no_reference():
    loss = dpo(beta=0.1, modifiers={"free": ReferenceFree()})
    assert loss.needs_reference is False
    expected = dpo.formula(POLICY.chosen_sum - POLICY.rejected_sum, beta=0.1)
    for reference in (None, REFERENCE):
        torch.testing.assert_close(loss(POLICY, reference), expected)


def test_wpo_weighs_a_pair_by_the_likelihood_of_both_completions_without_a_gradient():
    squares = {"chosen_sum_p_squared": torch.full((3, 5), 0.5), "rejected_sum_p_squared": torch.full((3, 5), 0.25)}
    weight = torch.exp(POLICY.chosen_mean + POLICY.rejected_mean) / (0.5 * 0.25)
    chosen = POLICY.chosen.clone().requires_grad_()
    policy = replace(POLICY, chosen=chosen, **{name: value.double() for name, value in squares.items()})
    values = load("wpo")(policy, REFERENCE)
    plain = dpo(beta=0.1)(policy, REFERENCE)
    torch.testing.assert_close(values, weight * plain)
    torch.testing.assert_close(torch.autograd.grad(values.sum(), chosen), torch.autograd.grad((weight * plain).sum(), chosen))


def test_wpo_asks_for_what_it_reads():
    assert load("wpo").requires == {"sum_p_squared"}
    with pytest.raises(ShapeError, match="needs chosen_sum_p_squared and rejected_sum_p_squared"):
        load("wpo")(POLICY, REFERENCE)


def test_humanline_clamps_token_log_ratios():
    policy = replace(POLICY, chosen=REFERENCE.chosen + torch.where(POLICY.chosen_mask, 5.0, 0.0))
    values = dpo(beta=0.1, modifiers={"clamp": Humanline(log_ratio_low=-1, log_ratio_high=1.5)})(policy, REFERENCE)
    rejected = (POLICY.rejected - REFERENCE.rejected).clamp(-1, 1.5).sum(dim=1)
    torch.testing.assert_close(values, dpo.formula(1.5 * POLICY.chosen_length - rejected, beta=0.1))


def test_modifiers_combine_in_their_order():
    both = dpo(beta=0.1, modifiers={"ld": LengthDesensitized(alpha=0.5), "free": ReferenceFree()})
    changed = length_desensitized(POLICY, alpha=0.5)
    torch.testing.assert_close(both(POLICY, None), dpo.formula(changed.chosen_sum - changed.rejected_sum, beta=0.1))


def test_a_modifier_that_a_loss_cannot_take_is_refused_with_the_reason():
    from rlx.loss.preference.modifier import ForwardKl

    with pytest.raises(ConfigError, match="apo_zero has no log-ratio that ForwardKl could replace"):
        apo_zero(beta=0.1, modifiers={"f": ForwardKl()})
    with pytest.raises(ConfigError, match="aot mixes the pairs of a batch"):
        aot(beta=0.1, label_smoothing=0, modifiers={"w": PolicyWeighting()})
    with pytest.raises(ConfigError, match="reads no reference"):
        simper(modifiers={"free": ReferenceFree()})
    with pytest.raises(ConfigError, match="not a modifier"):
        dpo(beta=0.1, modifiers={"x": 3})
