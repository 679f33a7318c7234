import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import RlxError
from rlx.policy.statistics import DISTRIBUTION_STATISTICS, TokenStatistics, pair_logprobs_of, statistics_of, unflatten

MASK = torch.tensor([[[True, True], [True, False]], [[False, False], [True, True]]])


def test_statistics_are_those_of_the_distributions():
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (Categorical(logits=torch.randn(5, 7, generator=draw, dtype=torch.float64)) for _ in range(2))
    targets = torch.tensor([0, 6, 3, 3, 1])
    found = statistics_of(ours.logits, targets, MASK, names=DISTRIBUTION_STATISTICS, reference=theirs.logits)
    expected = {
        "token_logprobs": ours.log_prob(targets),
        "entropy": ours.entropy(),
        "sum_p_squared": (ours.probs**2).sum(-1),
        "kl_to_reference": kl_divergence(ours, theirs),
        "kl_from_reference": kl_divergence(theirs, ours),
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(found, name)[MASK], values)
        assert not getattr(found, name)[~MASK].any()


def test_only_what_was_asked_for_is_there():
    found = statistics_of(torch.zeros(5, 7), torch.zeros(5, dtype=torch.long), MASK, names=["entropy"])
    assert found.entropy is not None
    assert found.sum_p_squared is None
    assert found.kl_to_reference is None


def test_a_kl_without_a_reference_says_what_to_give():
    with pytest.raises(RlxError, match="reference="):
        statistics_of(torch.zeros(5, 7), torch.zeros(5, dtype=torch.long), MASK, names=["kl_to_reference"])


def test_values_lie_where_the_mask_holds_and_keep_their_gradient():
    values = torch.arange(1.0, 6.0, requires_grad=True)
    placed = unflatten(values, MASK)
    assert placed.tolist() == [[[1, 2], [3, 0]], [[0, 0], [4, 5]]]
    (placed * 2).sum().backward()
    assert values.grad.tolist() == [2.0] * 5


def test_pairs_get_what_was_required_and_no_more():
    sequences = Sequences((np.array([1]), np.array([2, 3])), ((np.array([4]), np.array([5, 6])), (np.array([7]), np.array([8]))))
    scores = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    batch = PairBatch.of(TokenizedPairs(sequences, np.arange(2), scores=scores), [0, 1])
    values = torch.zeros(batch.sequences.completion_mask.shape)
    plain = pair_logprobs_of(batch, TokenStatistics(values))
    full = pair_logprobs_of(batch, TokenStatistics(values, entropy=values + 1), frozenset({"scores", "label"}))
    assert plain.scores is None
    assert plain.chosen_entropy is None
    assert full.scores is not None
    assert full.label is None
    assert full.rejected_entropy.mean() == 1
