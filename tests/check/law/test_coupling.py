"""What the law of directions says of a level that values are measured from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput
from tests.check.checking import failed
from tests.check.faulty import Preferences, Rewards


class LiveReferencePoint(Preferences):
    """KTO on pairs; its reference point is the mean log-ratio of the batch."""

    @property
    def couples_rows(self):
        return True

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        values = self.values(ours.chosen_sum - theirs.chosen_sum, ours.rejected_sum - theirs.rejected_sum)
        return LossOutput.of(values, batch.weights["preference"])

    def level(self, chosen, rejected):
        return torch.cat([chosen, rejected]).mean().clamp(min=0)

    def values(self, chosen, rejected):
        level = self.level(chosen, rejected)
        return 2 - torch.sigmoid(self.beta * (chosen - level)) - torch.sigmoid(self.beta * (level - rejected))


class LevelOfTheChosen(LiveReferencePoint):
    """The same of the chosen side alone."""

    def level(self, chosen, rejected):
        return chosen.mean()


class ConstantReferencePoint(LiveReferencePoint):
    """As it is meant."""

    def level(self, chosen, rejected):
        return super().level(chosen, rejected).detach()


class AgainstTheMeanOfTheRejected(LiveReferencePoint):
    """A chosen completion is held against all rejected ones of the batch, whose mean is all that teaches them."""

    def values(self, chosen, rejected):
        return -F.logsigmoid(self.beta * (chosen - rejected.mean()))


class EachAgainstTheOtherSide(LiveReferencePoint):
    """A chosen completion against the mean of the rejected ones, a rejected one against that of the chosen ones."""

    def values(self, chosen, rejected):
        against = F.logsigmoid(self.beta * (chosen - rejected.mean())), F.logsigmoid(self.beta * (chosen.mean() - rejected))
        return -sum(against)


class CentredRegression(Rewards):
    """Log-probabilities less their mean are regressed to rewards: its gradient centres the rewards."""

    couples_rows = True

    def advantages(self, rewards):
        return rewards

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        sums = ((ours - batch.sampling_logprobs) * batch.loss_mask).sum(dim=-1)
        return LossOutput.of((batch.advantages - 0.1 * (sums - sums.mean())) ** 2, torch.full_like(sums, 1 / 16))


class SmallVariance(LiveReferencePoint):
    """DPO that keeps the chosen log-ratios of a batch alike."""

    def values(self, chosen, rejected):
        return -F.logsigmoid(self.beta * (chosen - rejected)) + 0.01 * (chosen - chosen.mean()) ** 2


class SmallDrift(LiveReferencePoint):
    """DPO with the square of the batch's mean log-ratio as a penalty."""

    def values(self, chosen, rejected):
        return -F.logsigmoid(self.beta * (chosen - rejected)) + 0.01 * torch.cat([chosen, rejected]).mean() ** 2


class Contrast(LiveReferencePoint):
    """DPO, and each chosen completion against those of the other rows."""

    def values(self, chosen, rejected):
        return -F.logsigmoid(self.beta * (chosen - rejected)) - 0.1 * torch.log_softmax(self.beta * chosen, dim=0)


class LiveQuantile(LiveReferencePoint):
    """Margins are measured from a quantile of theirs."""

    share = 0.25

    def values(self, chosen, rejected):
        margin = chosen - rejected
        return -F.logsigmoid(self.beta * (margin - self.held(margin.quantile(self.share))))

    def held(self, level):
        return level


class LiveMedian(LiveQuantile):
    share = 0.5


class ConstantQuantile(LiveQuantile):
    def held(self, level):
        return level.detach()


class HardestRejectedOfAll(LiveReferencePoint):
    """A chosen completion against the likeliest of all rejected ones."""

    def values(self, chosen, rejected):
        return -F.logsigmoid(self.beta * (chosen - rejected.max()))


class SmallAbsoluteDeviation(LiveReferencePoint):
    """DPO that keeps margins near their median."""

    def values(self, chosen, rejected):
        margin = chosen - rejected
        return -F.logsigmoid(self.beta * margin) + 0.01 * (margin - margin.median()).abs()


@pytest.mark.parametrize("kind", [LiveQuantile, LiveMedian])
def test_a_live_median_or_quantile_is_named(kind):
    assert "of one or two of them (a median" in failed(kind(), "direction")["direction"].wrong


@pytest.mark.parametrize("kind", [LiveReferencePoint, LevelOfTheChosen])
def test_a_live_level_is_named(kind):
    found = failed(kind(), "direction")["direction"]
    assert "its gradient is not stopped" in found.wrong
    assert "test_coupling.py" in found.where


@pytest.mark.parametrize(
    "kind",
    [
        ConstantReferencePoint,
        AgainstTheMeanOfTheRejected,
        EachAgainstTheOtherSide,
        CentredRegression,
        SmallVariance,
        SmallDrift,
        Contrast,
        ConstantQuantile,
        HardestRejectedOfAll,
        SmallAbsoluteDeviation,
    ],
)
def test_other_losses_that_combine_rows_are_not_accused(kind):
    assert failed(kind(), "direction") == {}
