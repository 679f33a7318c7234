"""Laws of a loss alone: every shipped loss keeps them, a planted fault breaks one; and every shipped loss in an algorithm."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlx.check.finding import FAILED, PASSED
from rlx.check.law.loss import LOSS_LAWS, case_of, clip_ends, scores, signs, weights
from rlx.errors import ConfigError
from rlx.fields import within
from rlx.loss import PairLogprobs, PolicyGradientLoss, PreferenceLoss, RolloutLogprobs, preference_loss, stop_gradient
from rlx.loss.value import squared_error
from tests.check.checking import failed, with_loss
from tests.loss.catalogue import NAMES, load

THROUGH_AN_ALGORITHM = ("split", "padding", "order", "differences", "finite", "direction", "clip")


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_loss_keeps_the_laws_of_a_loss_alone(name):
    assert [law for law, find in LOSS_LAWS.items() if find(load(name)).status == FAILED] == []


@pytest.mark.whole
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_loss_keeps_the_other_laws_in_an_algorithm(name):
    assert failed(with_loss(load(name)), *THROUGH_AN_ALGORITHM) == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_loss_holds_all_but_the_policy_constant(name):
    case = case_of(load(name))
    fixed = {
        name: tensor.clone().requires_grad_()
        for name, tensor in case.tensors.items()
        if tensor.is_floating_point() and name not in (*case.leaves, "policy.scores")
    }
    leaves = {name: case.tensors[name].clone().requires_grad_() for name in case.leaves}
    total = case.with_tensors(**fixed, **leaves).total()
    found = torch.autograd.grad(total, list(fixed.values()), allow_unused=True)
    assert [name for name, part in zip(fixed, found, strict=True) if part is not None and bool(part.any())] == []


@pytest.mark.parametrize("name", ["dpo", "clipped", "clipped_entropy_bonus"])
def test_a_case_has_rows_first_and_a_gradient_for_each_leaf(name):
    case = case_of(load(name))
    assert {len(tensor) for tensor in case.tensors.values()} == {8}
    total, gradients = case.gradients()
    assert total.ndim == 0
    assert set(gradients) == set(case.leaves)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients.values())


def test_a_case_holds_an_empty_completion_and_one_of_a_single_token():
    lengths = case_of(load("clipped")).tensors["completion_mask"].sum(dim=1).tolist()
    assert {0, 1, 7} <= set(lengths)


def test_the_same_seed_gives_the_same_case_and_another_seed_another():
    first, again, other = (case_of(load("dpo"), seed=seed).total() for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_labels_only_where_they_are_wanted_and_read():
    assert "policy.label" in case_of(load("kto")).tensors
    assert "policy.label" not in case_of(load("kto"), labelled=False).tensors
    assert "policy.label" not in case_of(load("dpo")).tensors


def test_what_is_no_loss_of_pairs_or_rollouts_is_refused():
    with pytest.raises(ConfigError, match="neither a PreferenceLoss nor a PolicyGradientLoss"):
        case_of(squared_error())


class WeighsByValue(PreferenceLoss):
    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        return policy.rejected_sum - policy.chosen_sum

    def weights(self, completion_mask: Tensor) -> Tensor:
        return super().weights(completion_mask)[:, None]


class WrongSign(PolicyGradientLoss):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return rollouts.advantages * rollouts.token_logprobs


class Inert(PolicyGradientLoss):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return torch.zeros_like(rollouts.token_logprobs)


@dataclass(frozen=True, kw_only=True)
class ByHand(PolicyGradientLoss):
    """PPO's clip; those below turn one thing around each."""

    clip_low: float = within(at_least=0, at_most=1, default=0.1)
    clip_high: float = within(at_least=0, default=0.3)

    def ends(self) -> tuple[float, float]:
        return 1 - self.clip_low, 1 + self.clip_high

    def both(self, rollouts: RolloutLogprobs) -> tuple[Tensor, Tensor]:
        ratio = rollouts.log_ratio.clamp(-20, 20).exp()
        return ratio * rollouts.advantages, ratio.clamp(*self.ends()) * rollouts.advantages

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return -torch.minimum(*self.both(rollouts))


class EndsAreSwapped(ByHand):
    def ends(self) -> tuple[float, float]:
        return 1 - self.clip_high, 1 + self.clip_low


class OneEndForBoth(ByHand):
    def ends(self) -> tuple[float, float]:
        return 1 - self.clip_low, 1 + self.clip_low


class Masked(ByHand):
    """Tokens beyond either end add nothing: a choice, for what is dropped is not counted."""

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        whole, clipped = self.both(rollouts)
        return torch.where(whole == clipped, -whole, 0.0)


class Weighed(ByHand):
    """A clipped weight never gives a token up."""

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        ratio = rollouts.log_ratio.clamp(-20, 20).exp().clamp(*self.ends())
        return -stop_gradient(ratio) * rollouts.advantages * rollouts.token_logprobs


@pytest.mark.parametrize(
    ("law", "kind", "said"),
    [
        (weights, WeighsByValue, r"weights are \(8, 1\), but values \(8,\)"),
        (signs, WrongSign, "lowers the probability of a token with a positive advantage"),
        (clip_ends, EndsAreSwapped, "do not stop learning at the ratio 0.9"),
        (clip_ends, OneEndForBoth, "do not stop learning at the ratio 1.3"),
    ],
)
def test_a_fault_of_a_loss_is_named_with_the_place_of_the_loss(law, kind, said):
    finding = law(kind())
    assert finding.status == FAILED
    assert finding.mend
    found = failed(with_loss(kind()), "losses")["losses"]
    assert re.search(said, found.wrong)
    assert f"algorithm.loss ({kind.__name__})" in found.where


@pytest.mark.parametrize("loss", [ByHand(), ByHand(clip_low=1.0), ByHand(beta=0.1), Masked(), Weighed(), Inert()])
def test_a_sound_loss_is_not_accused(loss):
    assert failed(with_loss(loss), "losses") == {}


@pytest.mark.parametrize("loss", [load("dpo"), load("dual_clip", dual_clip=1.6)])
def test_neither_are_losses_with_no_ends_or_with_a_third(loss):
    assert clip_ends(loss).status != FAILED


def test_a_larger_gap_of_scores_teaches_no_less():
    def offset(sign):
        @preference_loss
        def offset_of_scores(margin, score_gap, *, beta=0.1):
            return -torch.nn.functional.logsigmoid(beta * margin - sign * torch.log1p(score_gap.clamp(min=0)))

        return offset_of_scores()

    assert scores(offset(1)).status == PASSED
    found = scores(offset(-1))
    assert found.status == FAILED
    assert "1 apart are taught less than pairs whose scores are 0.1 apart" in found.wrong
