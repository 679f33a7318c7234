import pytest
import torch

from rlx.errors import ConfigError
from rlx.loss.weight import constant_length, sequence_mean, sequence_sum, token_mean
from tests.loss.catalogue import golden_rollouts

G = golden_rollouts()
MASK = G["completion_mask"]
# PPO's values on the golden batch, of which three systems' aggregations were run
RATIO = (G["token_logprobs"] - G["sampling_logprobs"]).exp()
VALUES = -torch.minimum(RATIO * G["advantages"][:, None], RATIO.clamp(0.8, 1.2) * G["advantages"][:, None])
AGGREGATIONS = [
    (token_mean(), 0.0319),
    (sequence_mean(count_empty=False), 0.0869),
    (sequence_sum(count_empty=False), 0.1117),
    (constant_length(length=5), 0.0223),
]


@pytest.mark.parametrize(("weighting", "expected"), AGGREGATIONS, ids=[type(w).__name__ for w, _ in AGGREGATIONS])
def test_the_same_values_under_each_aggregation(weighting, expected):
    assert (weighting(MASK) * VALUES).sum().item() == pytest.approx(expected, abs=6e-5)


def test_means_sum_to_one_and_are_zero_outside_of_the_mask():
    for weighting, _ in AGGREGATIONS[:2]:
        weights = weighting(MASK)
        assert weights.sum().item() == pytest.approx(1, abs=1e-15)
        assert bool((weights[~MASK] == 0).all())
        assert weights.dtype == torch.float64


@pytest.mark.parametrize("kind", [sequence_mean, sequence_sum])
def test_an_empty_completion_counts_only_where_it_is_said_to(kind):
    with_empty = torch.cat([MASK, torch.zeros_like(MASK[:1])])
    without = kind(count_empty=False)
    torch.testing.assert_close(without(with_empty)[:4], without(MASK))
    torch.testing.assert_close(kind(count_empty=True)(with_empty)[:4], without(MASK) * 4 / 5)


def test_a_batch_without_a_token_has_weights_of_zero():
    for weighting, _ in AGGREGATIONS:
        assert weighting(torch.zeros(3, 4, dtype=torch.bool)).tolist() == torch.zeros(3, 4).tolist()


def test_the_constant_is_a_positive_whole_number():
    for length in (0, 2.5):
        with pytest.raises(ConfigError, match="length of constant_length"):
            constant_length(length=length)
