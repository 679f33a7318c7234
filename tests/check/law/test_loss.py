"""Every law on every loss of conf/loss; and every law catches a loss that breaks it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlx.check.law.loss import LAWS, check_loss
from rlx.loss import PairLogprobs, PolicyGradientLoss, PreferenceLoss, RolloutLogprobs, stop_gradient
from tests.loss.catalogue import NAMES, load


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_keeps_every_law(name, law):
    assert LAWS[law](load(name)) is None


@pytest.mark.parametrize("name", [name for name in NAMES if load(name).couples_rows])
def test_a_loss_that_says_it_couples_rows_does(name):
    loss = load(name)
    object.__setattr__(loss, "couples_rows", False)
    assert LAWS["split"](loss) is not None


@dataclass(frozen=True, kw_only=True)
class Honest(PreferenceLoss):
    """A loss that keeps every law; those below break one each."""

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        assert reference is not None
        return torch.nn.functional.softplus(stop_gradient(self.margin(reference)) - self.margin(policy))

    def margin(self, pairs: PairLogprobs) -> Tensor:
        return pairs.chosen_sum - pairs.rejected_sum


class Unmasked(Honest):
    def margin(self, pairs: PairLogprobs) -> Tensor:
        return pairs.chosen.sum(dim=1) - pairs.rejected.sum(dim=1)


class Reversed(Honest):
    def margin(self, pairs: PairLogprobs) -> Tensor:
        return pairs.rejected_sum - pairs.chosen_sum


class Exploding(Honest):
    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        return torch.exp(-self.margin(policy))


class DividesByLength(Honest):
    def margin(self, pairs: PairLogprobs) -> Tensor:
        return pairs.chosen_sum / pairs.chosen_length - pairs.rejected_sum / pairs.rejected_length


class CouplesInSecret(Honest):
    def margin(self, pairs: PairLogprobs) -> Tensor:
        margin = pairs.chosen_sum - pairs.rejected_sum
        return margin - 0.1 * margin.mean()


class Detaches(Honest):
    def margin(self, pairs: PairLogprobs) -> Tensor:
        return pairs.chosen_sum - pairs.rejected_sum.detach()


class MovesTheReference(Honest):
    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        assert reference is not None
        return torch.nn.functional.softplus(self.margin(reference) - self.margin(policy))


class RowNumber(Honest):
    def margin(self, pairs: PairLogprobs) -> Tensor:
        return (pairs.chosen_sum - pairs.rejected_sum) * torch.arange(1, len(pairs) + 1)

    couples_rows = True


class WeighsByValue(Honest):
    def weights(self, completion_mask: Tensor) -> Tensor:
        return super().weights(completion_mask)[:, None]


class LocalTokenMean(PolicyGradientLoss):
    """The bug that most trainers shipped: the mean over the tokens of the micro-batch."""

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return -rollouts.advantages * rollouts.token_logprobs / rollouts.completion_mask.sum()


class WrongSign(PolicyGradientLoss):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return rollouts.advantages * rollouts.token_logprobs


BROKEN: Mapping[type, str] = {
    Unmasked: "padding",
    Reversed: "direction",
    Exploding: "finite",
    DividesByLength: "finite",
    CouplesInSecret: "split",
    Detaches: "finite_differences",
    RowNumber: "order",
    MovesTheReference: "constants",
    WeighsByValue: "weights",
    LocalTokenMean: "split",
    WrongSign: "direction",
}


def test_an_honest_loss_passes():
    assert [verdict for verdict in check_loss(Honest()) if verdict.broken] == []


@pytest.mark.parametrize(("kind", "law"), BROKEN.items(), ids=lambda item: item if isinstance(item, str) else item.__name__)
def test_a_law_catches_a_loss_that_breaks_it(kind, law):
    broken = {verdict.law: verdict.broken for verdict in check_loss(kind())}
    assert broken[law] is not None


def test_an_error_is_a_broken_law_that_says_what_was_raised():
    class Raises(Honest):
        def margin(self, pairs: PairLogprobs) -> Tensor:
            raise ZeroDivisionError("no margin")

    assert "ZeroDivisionError: no margin" in str(check_loss(Raises())[0].broken)


def test_verdicts_carry_the_promise_of_the_law():
    assert all(verdict.promise.endswith((".", "promise")) and len(verdict.promise) > 20 for verdict in check_loss(Honest()))


def test_the_honest_loss_is_log_two_at_the_reference():
    pairs = PairLogprobs(*(torch.zeros(2, 3, dtype=torch.float64),) * 2, *(torch.ones(2, 3, dtype=torch.bool),) * 2)
    torch.testing.assert_close(Honest()(pairs, pairs), torch.full((2,), math.log(2), dtype=torch.float64))
