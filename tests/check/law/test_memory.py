"""What lasts from draw to draw belongs to a prompt, or to all rows, and not to a place in the batch."""

import pytest
import torch

from tests.check.checking import failed
from tests.check.faulty import Preferences, Rewards


class BaselineOfThePlace(Rewards):
    """A running mean of rewards for each place of a batch, whatever prompt stands there."""

    def draw(self, lab):
        batch = super().draw(lab)
        before = lab.state.get("means", batch.rewards.mean(dim=1))
        lab.state["means"] = 0.9 * before + 0.1 * batch.rewards.mean(dim=1)
        return batch.with_values(advantages=batch.rewards - before[:, None])


class DeviationOfThePlace(Rewards):
    """The running deviation that a group is divided by is that of its place."""

    def draw(self, lab):
        batch = super().draw(lab)
        own = batch.rewards.std(dim=1)
        lab.state["deviations"] = before = 0.5 * lab.state.get("deviations", own) + 0.5 * own
        return batch.with_values(advantages=batch.advantages / (before[:, None] + 0.1))


class HardPlacesOfPairs(Preferences):
    """Pairs weigh by the margin that stood at their place in the draw before."""

    def draw(self, lab):
        batch = super().draw(lab)
        margin = self.margin(lab.policy.pair_logprobs(batch), lab.reference.pair_logprobs(batch)).float()
        weights = torch.sigmoid(-lab.state.get("margins", torch.zeros_like(margin)))
        lab.state["margins"] = margin
        return batch.with_weights(preference=weights / weights.sum())


class BaselineOfThePrompt(Rewards):
    """A running mean for each prompt of the task."""

    def draw(self, lab):
        batch = super().draw(lab)
        keys, table = torch.tensor(batch.prompt_keys), lab.state.get("means", torch.full((len(lab.task.prompts()),), 0.5))
        before = table[keys]
        lab.state["means"] = table.index_copy(0, keys, 0.9 * before + 0.1 * batch.rewards.mean(dim=1))
        return batch.with_values(advantages=batch.rewards - before[:, None])


class BaselineOfAKind(Rewards):
    """A running mean for each of three kinds of prompts."""

    def draw(self, lab):
        batch = super().draw(lab)
        kinds = torch.tensor([len(prompt.text) % 3 for prompt in batch.prompts])
        table = lab.state.get("means", torch.full((3,), 0.5)).clone()
        before = table[kinds]
        for kind, reward in zip(kinds.tolist(), batch.rewards.mean(dim=1), strict=True):
            table[kind] = 0.9 * table[kind] + 0.1 * reward
        lab.state["means"] = table
        return batch.with_values(advantages=batch.rewards - before[:, None])


class MedianOfLateRewards(Rewards):
    """The baseline is the median of the last rewards, which stand in the order in which they came."""

    def draw(self, lab):
        batch = super().draw(lab)
        lab.state["rewards"] = torch.cat([lab.state.get("rewards", torch.zeros(0)), batch.rewards.flatten()])[-64:]
        return batch.with_values(advantages=batch.rewards - lab.state["rewards"].median())


@pytest.mark.parametrize("kind", [BaselineOfThePlace, DeviationOfThePlace, HardPlacesOfPairs])
def test_what_is_remembered_of_a_place_is_named(kind):
    assert "the same place of the next draw" in failed(kind(), "draws")["draws"].wrong


@pytest.mark.parametrize("kind", [BaselineOfThePrompt, BaselineOfAKind, MedianOfLateRewards])
def test_what_is_remembered_of_prompts_or_of_all_rows_is_sound(kind):
    assert failed(kind(), "draws") == {}


class AverageIsNeverWritten(Rewards):
    """The moving average is looked for, and kept nowhere."""

    def draw(self, lab):
        batch = super().draw(lab)
        average = 0.9 * lab.state.get("average", torch.zeros(())) + 0.1 * batch.rewards.mean()
        return batch.with_values(advantages=batch.rewards - average)


class SeldomWritten(Rewards):
    """A level that is kept from every hundredth step on."""

    def draw(self, lab):
        batch = super().draw(lab)
        level = lab.state["level"] if "level" in lab.state else torch.zeros(())
        if lab.step % 100 == 99:
            lab.state["level"] = batch.rewards.mean()
        return batch.with_values(advantages=batch.rewards - level)


def test_what_is_looked_for_and_never_written_is_named():
    assert "no draw puts it there" in failed(AverageIsNeverWritten(), "draws")["draws"].wrong
    assert failed(SeldomWritten(), "draws") == {}
