import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from rlx.errors import RlxError
from rlx.policy.statistics import DISTRIBUTION_STATISTICS, statistics_of, unflatten

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
