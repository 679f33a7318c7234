"""What is not a number is named with its term and its rows."""

import dataclasses

import pytest
import torch

import rlx
from rlx.loss.preference.margin import dpo
from rlx.optimizer.step import NonFiniteGradientError
from rlx.training.gradients import AccumulatedGradients, NonFiniteLossError
from tests.algorithm.conftest import lab, policy_and_reference  # noqa: F401

pytestmark = pytest.mark.whole


def source_of(lab, *, loss=None, nan_rows=()):  # noqa: F811
    made = rlx.load("algorithm", "dpo", pairs_per_step=10)
    made = made if loss is None else dataclasses.replace(made, loss=loss)
    batch = made.draw(lab)
    weights = batch.weights["preference"].clone()
    weights[list(nan_rows)] = float("nan")
    return AccumulatedGradients(made, lab.policy, lab.reference, batch.with_weights(preference=weights), micro_batch=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cusp(dpo):
    """Adds 0 with an infinite slope to the pairs whose chosen completion is unlikely."""

    below: float

    def values(self, policy, reference):
        zero = policy.chosen_sum - policy.chosen_sum.detach()
        elsewhere = (policy.chosen_sum.detach() >= self.below).to(zero)
        return super().values(policy, reference) + (zero.abs() + elsewhere).sqrt() - elsewhere


def test_rows_that_are_not_finite_are_named(lab):  # noqa: F811
    source = source_of(lab, nan_rows=(2, 5))
    with pytest.raises(NonFiniteLossError, match="'preference' of the loss is not finite on 2 of 10 rows") as caught:
        source()
    expected = [lab.policy.decode(source.batch.sequences.prompts[row]) for row in (2, 5)]
    assert [example["prompt"] for example in caught.value.examples] == expected


def test_a_gradient_that_is_no_number_is_blamed_on_its_term_and_rows(lab):  # noqa: F811
    plain = source_of(lab)
    likelihoods = lab.policy.pair_logprobs(plain.batch).chosen_sum.detach()
    below = float(likelihoods.sort().values[3:5].mean())
    rows = (likelihoods < below).nonzero().flatten().tolist()
    source = source_of(lab, loss=Cusp(beta=0.1, below=below))
    (found,) = source().values()
    assert not all(torch.isfinite(gradient).all() for gradient in found if gradient is not None)
    error = source.non_finite_rows(NonFiniteGradientError("the gradient's norm is nan"))
    assert "norm is nan; term 'preference' has such a gradient on 4 of 10 rows" in str(error)
    expected = [lab.policy.decode(source.batch.sequences.prompts[row]) for row in rows]
    assert [example["prompt"] for example in error.examples] == expected


def test_where_no_row_alone_is_to_blame_that_is_said(lab):  # noqa: F811
    error = source_of(lab).non_finite_rows(NonFiniteGradientError("the gradient's norm is inf"))
    assert str(error) == "the gradient's norm is inf; the gradient of each row alone is finite"
    assert error.examples == []


def test_a_loss_that_cannot_be_had_of_one_row_is_said_beside_the_error(lab, monkeypatch):  # noqa: F811
    source = source_of(lab)
    monkeypatch.setattr(dpo, "values", lambda self, policy, reference: 1 / 0)
    error = source.non_finite_rows(NonFiniteGradientError("the gradient's norm is nan"))
    assert str(error) == "the gradient's norm is nan; for one row alone the loss raises ZeroDivisionError: division by zero"
