"""A function becomes a loss: what it reads, what it takes, and what is said where it cannot be one."""

import pickle
from typing import Annotated

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.errors import ConfigError, ShapeError
from rlx.fields import one_of, within
from rlx.loss import PolicyGradientLoss, PreferenceLoss, policy_gradient_loss, preference_loss, weighting
from rlx.loss.preference.margin import dpo
from rlx.loss.preference.modifier import ForwardKl
from rlx.loss.weight import sequence_sum
from tests.loss.catalogue import golden_pairs, golden_rollouts, load

POLICY, REFERENCE = golden_pairs()
G = golden_rollouts()


@preference_loss
def logistic(margin, *, beta=0.1):
    return -F.logsigmoid(beta * margin)


@policy_gradient_loss
def unclipped(ratio, advantages, entropy, *, bonus=0.1):
    return -ratio * advantages - bonus * entropy


def test_a_function_of_three_lines_is_a_preference_loss():
    assert issubclass(logistic, PreferenceLoss)
    torch.testing.assert_close(logistic(beta=0.3)(POLICY, REFERENCE), load("dpo", beta=0.3)(POLICY, REFERENCE))
    margin = torch.linspace(-3, 3, 5)
    torch.testing.assert_close(logistic.formula(margin, beta=0.3), -F.logsigmoid(0.3 * margin))
    assert logistic().beta == 0.1


def test_a_function_of_three_lines_is_a_policy_gradient_loss():
    assert issubclass(unclipped, PolicyGradientLoss)
    assert unclipped().requires == {"entropy"}
    values = unclipped(bonus=0.5)(**G, entropy=torch.ones_like(G["token_logprobs"]))
    expected = -(G["token_logprobs"] - G["sampling_logprobs"]).exp() * G["advantages"][:, None] - 0.5
    torch.testing.assert_close(values, torch.where(G["completion_mask"], expected, 0.0))


def test_a_loss_can_be_pickled_and_compared():
    assert pickle.loads(pickle.dumps(logistic(beta=0.3))) == logistic(beta=0.3)


def test_what_is_needed_follows_from_what_is_read():
    @preference_loss
    def likelihood(mean_chosen_logprob):
        return -mean_chosen_logprob

    @preference_loss
    def several(chosen, rejected_entropy, score_gap):
        return chosen - rejected_entropy.sum(dim=1) * score_gap

    @policy_gradient_loss
    def held(ratio, reference_logprobs):
        return ratio * reference_logprobs

    found = (likelihood.needs_reference, likelihood.reads_rejected, likelihood.per_token, likelihood.requires)
    assert found == (False, False, True, frozenset())
    found = (several.needs_reference, several.reads_rejected, several.per_token, several.requires)
    assert found == (True, True, False, {"entropy", "scores"})
    assert held().needs_reference
    assert not unclipped().needs_reference
    assert unclipped(beta=0.1).needs_reference


def test_only_a_margin_takes_another_divergence():
    @preference_loss
    def of_both(chosen, rejected):
        return rejected - chosen

    assert logistic(modifiers={"f": ForwardKl()}).modifiers
    with pytest.raises(ConfigError, match="of_both has no log-ratio that ForwardKl could replace"):
        of_both(modifiers={"f": ForwardKl()})


def test_a_parameter_that_no_input_is_named_after_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match=r"mine reads marign, and there is no such input; did you mean margin\?.*chosen_length"):

        @preference_loss
        def mine(marign, *, beta=0.1):
            return beta * marign

    with pytest.raises(ConfigError, match=r"mine reads margin, and there is no such input.*advantages"):

        @policy_gradient_loss
        def mine(margin):
            return margin


def test_a_default_without_a_star_is_a_hyperparameter_and_one_with_an_inputs_name_is_read():
    @preference_loss
    def mine(margin, beta=0.2, reference=None):
        return beta * margin

    assert mine.reads == ("margin", "reference")
    assert mine().beta == 0.2


def test_a_hyperparameter_that_every_loss_has_is_refused():
    with pytest.raises(ConfigError, match="mine has a hyperparameter beta, which every PolicyGradientFormula has already"):

        @policy_gradient_loss
        def mine(ratio, *, beta=0.1):
            return beta * ratio

    with pytest.raises(ConfigError, match=r"mine takes \*\*more; give each of its arguments a name"):

        @preference_loss
        def mine(margin, **more):
            return margin


def test_an_option_that_the_decorator_has_not_is_named():
    with pytest.raises(ConfigError, match="@preference_loss takes no couple_rows; it takes couples_rows, per_token"):
        preference_loss(couple_rows=True)


def test_ranges_and_names_are_enforced_and_a_number_may_be_any_number():
    @preference_loss
    def mine(
        margin: Tensor,
        *,
        beta: Annotated[float, within(above=0, advice="0.1 is usual")] = 1,
        form: Annotated[str, one_of(("a", "b"))] = "a",
        free=2,
    ) -> Tensor:
        return beta * free * margin

    assert mine(beta=0.5, free=-1.5, form="b").free == -1.5
    with pytest.raises(ConfigError, match=r"beta of mine is -1, but must be a finite number above 0; 0\.1 is usual"):
        mine(beta=-1)
    with pytest.raises(ConfigError, match="form of mine is 'c', but must be one of a, b"):
        mine(form="c")


def test_an_annotation_that_fails_is_named():
    def mine(margin, *, beta: "Annotated[float, with_in(above=0)]" = 0.1):  # noqa: F821
        return beta * margin

    with pytest.raises(ConfigError, match=r"beta of mine is annotated .*with_in.*, which fails: name 'with_in' is not defined"):
        preference_loss(mine)


def test_a_value_that_is_reduced_or_none_is_named():
    @preference_loss
    def reduced(margin):
        return margin.mean()

    @policy_gradient_loss
    def silent(ratio):
        ratio.sum()

    with pytest.raises(
        ShapeError, match=r"reduced gives \(\), not a value for each pair \(not reduced\), a tensor of shape \(3,\)"
    ):
        reduced()(POLICY, REFERENCE)
    with pytest.raises(ShapeError, match="silent gives None, not a value for each token"):
        silent()(**G)


def test_weights_and_weighting_can_be_ones_own():
    @weighting
    def last_token(completion_mask):
        last = completion_mask & (completion_mask.cumsum(dim=-1) == completion_mask.sum(dim=-1, keepdim=True))
        return last / last.sum().clamp(min=1)

    @policy_gradient_loss(weighting=last_token())
    def mine(ratio, advantages):
        return -ratio * advantages

    assert mine().weights(G["completion_mask"]).sum(dim=1).tolist() == [0.25] * 4
    assert mine(weighting=sequence_sum()).weighting == sequence_sum()

    @preference_loss(weights=lambda completion_mask: torch.tensor([1.0, 0.0, 0.0]))
    def first(margin):
        return margin

    assert first().weights(POLICY.chosen_mask).tolist() == [1, 0, 0]


def test_a_class_may_be_derived_from_a_function():
    class Doubled(dpo):
        def values(self, policy, reference):
            return 2 * super().values(policy, reference)

    torch.testing.assert_close(Doubled(beta=0.3)(POLICY, REFERENCE), 2 * dpo(beta=0.3)(POLICY, REFERENCE))
