import pytest
import torch

from rlx.errors import ConfigError
from rlx.loss.preference.margin import dpo
from rlx.loss.preference.mixture import LossMixture, LossPart
from tests.loss.catalogue import golden_pairs, load

POLICY, REFERENCE = golden_pairs()


def total(loss) -> torch.Tensor:
    return (loss.weights(POLICY.chosen_mask) * loss(POLICY, REFERENCE)).sum()


def test_a_mixture_is_the_weighted_sum_of_its_parts_each_with_its_own_weights():
    parts = 0.8 * total(load("dpo")) + 0.2 * total(load("bco")) + 1.0 * total(load("nll"))
    torch.testing.assert_close(total(load("mixture")), parts)
    assert load("mixture")(POLICY, REFERENCE).shape == (3, 3)


def test_a_mixture_needs_what_its_parts_need():
    free, coupled = LossMixture(parts={"a": LossPart(coefficient=1, loss=load("simpo"))}), load("aot")
    assert free.needs_reference is False
    assert free.couples_rows is False
    mixed = LossMixture(parts={"a": LossPart(coefficient=1, loss=coupled), "b": LossPart(coefficient=1, loss=load("odpo"))})
    assert mixed.needs_reference is True
    assert mixed.couples_rows is True
    assert mixed.requires == {"scores"}


def test_what_is_no_part_is_refused():
    with pytest.raises(ConfigError, match="without parts"):
        LossMixture(parts={})
    with pytest.raises(ConfigError, match=r"parts\.x of a mixture is"):
        LossMixture(parts={"x": dpo(beta=0.1)})
    with pytest.raises(ConfigError, match="not a preference loss"):
        LossPart(coefficient=1, loss=3)


def test_its_rewards_are_those_of_the_first_part():
    torch.testing.assert_close(
        load("mixture").implicit_rewards(POLICY, REFERENCE), load("dpo").implicit_rewards(POLICY, REFERENCE)
    )


def test_dpo_nll_is_dpo_plus_the_mean_negative_log_likelihood_of_a_completion():
    torch.testing.assert_close(total(load("dpo_nll")), total(load("dpo")) + total(load("nll_sequence_mean")))
