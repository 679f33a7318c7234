"""A mean divides by a count once, and by no count of a prompt's tokens."""

import pytest
import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput
from tests.check.checking import failed
from tests.check.faulty import Demonstrations, Preferences, Rewards
from tests.check.mistakes import sequence_weights


class SequenceRatios(Rewards):
    """The clipped surrogate of a completion's ratio, a mean over all completions (GSPO, arXiv:2507.18071)."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=sequence_weights(batch))

    def compute_loss(self, policy, reference, batch):
        log_ratio = (self.log_ratio(policy, batch) * batch.completion_mask).sum(dim=-1)
        ratio = (log_ratio / self.lengths(batch)).exp()
        pushed = torch.minimum(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages)
        return LossOutput.of(-pushed / self.divisor(batch), batch.weights)

    def lengths(self, batch):
        return batch.completion_mask.sum(dim=-1).clamp(min=1)

    def divisor(self, batch):
        return 1


class DividedByTheGroupAgain(SequenceRatios):
    def divisor(self, batch):
        return batch.group_size


class DividedByTheRowsAgain(SequenceRatios):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=batch.weights / len(batch))


class LengthOfTheGroup(SequenceRatios):
    """A completion's log-ratio is divided by the tokens of its whole group, and its slope multiplied again."""

    def lengths(self, batch):
        return batch.completion_mask.sum(dim=(-1, -2), keepdim=True)[..., 0].clamp(min=1).expand(batch.rewards.shape)

    def divisor(self, batch):
        return 1 / batch.group_size


class LengthWithThePrompt(SequenceRatios):
    def lengths(self, batch):
        return super().lengths(batch) + torch.tensor([len(prompt) for prompt in batch.sequences.prompts])[:, None]


class PairsDividedTwice(Preferences):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_weights(preference=torch.full((len(batch),), 1 / len(batch) ** 2))


class MarginOverThePrompt(Preferences):
    def compute_loss(self, policy, reference, batch):
        lengths = torch.tensor([len(prompt) for prompt in batch.sequences.prompts])
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch)) / lengths
        return LossOutput.of(-F.logsigmoid(10 * self.beta * margin), batch.weights["preference"])


class WholeRowIsALength(Demonstrations):
    """Tokens of the completion are divided by the length of prompt and completion."""

    def draw(self, lab):
        batch = super().draw(lab)
        lengths = torch.tensor(batch.row_tokens)[:, None]
        return batch.with_weights(nll=batch.chosen_mask.double() / lengths / len(batch))


class SumOfAllTokens(Rewards):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=batch.loss_mask.double())


class SumOfAGroup(Rewards):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=batch.loss_mask.double() / len(batch))


class LogRatioOverAConstant(SequenceRatios):
    def lengths(self, batch):
        return torch.full(batch.rewards.shape, 8.0)


WRONG = {
    DividedByTheGroupAgain: ("draws", "number of completions a group twice"),
    DividedByTheRowsAgain: ("draws", "number of rows twice"),
    LengthOfTheGroup: ("draws", "power 0.125 of the ratio"),
    PairsDividedTwice: ("draws", "number of rows twice"),
    LengthWithThePrompt: ("length", "the tokens of the prompt are counted"),
    MarginOverThePrompt: ("length", "the tokens of the prompt are counted"),
    WholeRowIsALength: ("length", "the tokens of the prompt are counted"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_count_that_divides_again_is_named(kind):
    law, said = WRONG[kind]
    assert said in failed(kind(), law)[law].wrong


@pytest.mark.parametrize("kind", [SequenceRatios, SumOfAllTokens, SumOfAGroup, LogRatioOverAConstant])
def test_means_and_sums_and_constants_are_sound(kind):
    assert failed(kind(), "draws", "length") == {}
