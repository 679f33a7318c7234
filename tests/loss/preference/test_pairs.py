import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.base import masked
from rlx.loss.preference.pairs import PairInputs, PairLogprobs
from tests.loss.catalogue import golden_pairs

POLICY, REFERENCE = golden_pairs()


def test_sums_means_and_lengths_are_of_the_completion_alone():
    assert POLICY.chosen_sum.tolist() == pytest.approx([-1.75, -0.5, -1.8])
    assert POLICY.rejected_length.tolist() == [4, 3, 3]
    assert POLICY.rejected_mean.tolist() == pytest.approx([-0.75, -1.25, -2.9 / 3])
    dirty = PairLogprobs(POLICY.chosen + 7 * ~POLICY.chosen_mask, POLICY.rejected, POLICY.chosen_mask, POLICY.rejected_mask)
    torch.testing.assert_close(dirty.chosen_sum, POLICY.chosen_sum)


def test_an_empty_completion_has_sum_and_mean_zero():
    empty = PairLogprobs(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2).bool(), torch.zeros(1, 2).bool())
    assert empty.chosen_mean.tolist() == [0]


def test_scores_are_log_ratios_or_log_probabilities():
    torch.testing.assert_close(PairInputs(POLICY, REFERENCE).margin, torch.tensor([0.75, 1.75, 0.3], dtype=torch.float64))
    torch.testing.assert_close(PairInputs(POLICY, None).chosen, POLICY.chosen_sum)
    torch.testing.assert_close(PairInputs(POLICY, None).mean_rejected, POLICY.rejected_mean)


def test_the_reference_gets_no_gradient():
    reference = PairLogprobs(
        REFERENCE.chosen.clone().requires_grad_(), REFERENCE.rejected, REFERENCE.chosen_mask, REFERENCE.rejected_mask
    )
    assert PairInputs(POLICY, reference).margin.requires_grad is False


def test_rows_can_be_cut():
    assert len(POLICY[1:]) == 2
    torch.testing.assert_close(POLICY[1:].chosen_sum, POLICY.chosen_sum[1:])


def test_shapes_that_are_no_pairs_are_refused():
    with pytest.raises(ShapeError, match="are not pairs"):
        PairLogprobs(torch.zeros(2, 3), torch.zeros(3, 3), torch.ones(2, 3).bool(), torch.ones(3, 3).bool())
    with pytest.raises(ShapeError, match="must both be"):
        PairLogprobs(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 4).bool(), torch.ones(2, 3).bool())


def test_a_missing_field_is_named():
    POLICY.require({"label"}, by="Kto")  # labels are optional: without them chosen is the desirable one
    with pytest.raises(ShapeError, match="Odpo needs scores, which these pairs lack"):
        POLICY.require({"scores"}, by="Odpo")
    with pytest.raises(ShapeError, match="chosen_vocabulary_kl and rejected_vocabulary_kl"):
        POLICY.require({"vocabulary_kl"}, by="Tdpo")


def test_masking_removes_even_what_is_no_number():
    assert masked(torch.tensor([1.0, torch.nan]), torch.tensor([True, False])).tolist() == [1, 0]
