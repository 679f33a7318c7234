"""Laws of log-probabilities accuse no shipped advantage and no sound baseline, and skip what they do not concern."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

import rlx
from rlx.check.checker import LAWS, tried
from rlx.check.finding import NOT_APPLICABLE
from rlx.config.compose import groups, option_node
from rlx.config.schema import conf_dir
from tests.check.checking import failed, subject, with_loss
from tests.check.faulty import Preferences, Rewards
from tests.check.oversights import RatioToAMean
from tests.check.sound import BestOfGroup, RunningBaseline, TwoSources

ADVANTAGES = groups([conf_dir()])["algorithm/advantage"]


@pytest.mark.parametrize("kind", [RunningBaseline, TwoSources], ids=lambda kind: kind.__name__)
def test_a_sound_baseline_is_not_accused(kind):
    assert failed(kind(), "temperature", "baseline") == {}


@pytest.mark.parametrize(("kind", "law"), [(BestOfGroup, "temperature"), (Preferences, "temperature"), (Preferences, "baseline")])
def test_it_does_not_concern_one_that_compares_with_nothing_sampled(kind, law):
    assert tried(LAWS[law], subject(kind()))[0].status == NOT_APPLICABLE


@pytest.mark.parametrize("name", ADVANTAGES)
def test_no_shipped_advantage_is_accused(name):
    advantage = instantiate(option_node("algorithm/advantage", name, [conf_dir()]))
    assert failed(replace(rlx.load("algorithm", "custom_grpo"), advantage=advantage), "temperature", "baseline") == {}


class OfTheSequenceByToken(Rewards):
    """The ratio of the sequence, whose gradient goes through the token alone, each weighed by its share of the probability."""

    def log_ratio(self, policy, batch):
        ours, mask = policy.token_logprobs(batch.sequences, temperature=batch.temperature), batch.loss_mask
        count = mask.sum(dim=-1, keepdim=True).clamp(min=1)
        ratio = ((ours - batch.sampling_logprobs) * mask).sum(dim=-1, keepdim=True) / count
        share = torch.log_softmax(ours.masked_fill(~mask, -1e9), dim=-1).clamp(min=-20)
        return (ratio + share).detach().clamp(-20, 20) + ours - ours.detach()


class ByProbability(Rewards):
    """The ratio of the sequence, a constant, times the probability of a token (arXiv:2505.12929): no ratio is there twice."""

    def log_ratio(self, policy, batch):
        ours, mask = policy.token_logprobs(batch.sequences, temperature=batch.temperature), batch.loss_mask
        count = mask.sum(dim=-1, keepdim=True).clamp(min=1)
        mean = ((ours - batch.sampling_logprobs) * mask).sum(dim=-1, keepdim=True) / count
        return mean.detach().clamp(-20, 20) + ours


def test_a_ratio_to_the_mean_of_the_sampler_is_named():
    assert "compared with the mean of the sampler's" in failed(RatioToAMean(), "alignment")["alignment"].wrong
    assert failed(OfTheSequenceByToken(), "alignment") == {}
    assert failed(ByProbability(), "alignment", "clip") == {}
    corrected = rlx.load("loss", "clipped_sequence_truncated_correction")  # its token ratio is to the proximal policy
    assert failed(with_loss(corrected), "alignment") == {}
