"""Laws of rows: what a batch in pieces or in another order shows."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from rlx.algorithm import LossOutput, Term
from rlx.check.law.loss import case_of
from rlx.loss.weight import token_mean
from tests.check.checking import failed
from tests.check.faulty import MeanOverThePrompts, Preferences, Rewards
from tests.check.oversights import UpperHalfOfTheRows
from tests.loss.catalogue import NAMES, load


def test_a_loss_that_raises_in_another_order_breaks_the_law_and_is_not_passed_over():
    first = []

    class Particular(Preferences):
        def compute_loss(self, policy, reference, batch):
            lengths = policy.pair_logprobs(batch).chosen_length.tolist()
            first[:] = first or lengths
            if lengths != first:
                raise IndexError("the longest row must come where it came")
            return super().compute_loss(policy, reference, batch)

    assert "the longest row must come where it came" in failed(Particular(), "order")["order"].wrong


def test_the_first_group_that_the_order_changes_is_shown_whatever_the_hashes_of_bytes_are():
    assert failed(MeanOverThePrompts(), "order")["order"].example.startswith("row 0: ")


def parts_of(case, tensors):
    """The values of the rows, and the gradients of their sum."""
    leaves = {key: tensors[key].clone().requires_grad_() for key in case.leaves}
    values = case.evaluate({**tensors, **leaves})
    total = values.sum()
    found = (
        torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        if total.requires_grad
        else ()
    )
    return values.detach(), *found


@pytest.mark.parametrize("name", [name for name in NAMES if load(name).couples_rows])
def test_a_loss_that_says_it_couples_rows_does(name):
    differs = []
    for seed in range(3):
        case = case_of(load(name), seed=seed, spread=3.0)
        for rows in (slice(0, 4), *(slice(row, row + 1) for row in range(8))):
            half = {key: tensor[rows] for key, tensor in case.tensors.items()}
            alone, among = parts_of(case, half), [part[rows] for part in parts_of(case, case.tensors)]
            differs += [not torch.allclose(*pair) for pair in zip(alone, among, strict=False)]
    assert any(differs)


class LargeAdvantages(Rewards):
    """Advantages below a level do not teach."""

    def advantages(self, rewards):
        found = super().advantages(rewards)
        return torch.where(found.abs() > 0.1, found, 0.0)


def test_a_threshold_of_the_rows_at_hand_is_named_though_all_of_three_rows_pass_it():
    assert "in pieces of 1 rows" in failed(UpperHalfOfTheRows(prompts_per_step=3), "split")["split"].wrong
    assert failed(LargeAdvantages(), "split") == {}


@dataclass(frozen=True, kw_only=True)
class HalvedEveryDraw(Rewards):
    """A penalty on confidence whose coefficient the run's state keeps: each draw halves it."""

    start: float = 0.1

    def draw(self, lab):
        batch = super().draw(lab)
        coefficient = lab.state.get("coefficient", torch.tensor(self.start))
        lab.state["coefficient"] = coefficient / 2
        return batch.with_values(value_weights=batch.weights * coefficient)

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        ours = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"entropy"}))
        return LossOutput({**output.terms, "entropy": Term(-ours.entropy, batch.value_weights)}, output.metrics)


def test_a_coefficient_that_moves_from_draw_to_draw_is_none_that_the_size_of_a_draw_decides():
    assert failed(HalvedEveryDraw(), "draws") == {}


class DecaysInSinglePrecision(Preferences):
    """Weights of tokens that fall along a completion, powers of a float32 whose last digit depends on their place."""

    gamma: ClassVar[float] = 0.95

    def margin(self, ours, theirs):
        chosen = self.decayed(ours.chosen - theirs.chosen, ours.chosen_mask)
        return chosen - self.decayed(ours.rejected - theirs.rejected, ours.rejected_mask)

    def decayed(self, values, mask):
        return (values * self.gamma ** (mask.cumsum(dim=1) - 1).clamp(min=0) * mask).sum(dim=1)


class WeightsOfUpdatesAlone(Rewards):
    """What a draw gives has no weights: each of its parts gets its own."""

    def draw(self, lab):
        return super().draw(lab).with_values(weights=None)

    def updates(self, batch, rng):
        for rows in batch.rewards.mean(dim=1).argsort(descending=True, stable=True).tensor_split(2):
            part = batch.take(rows.tolist())
            yield part.with_values(weights=token_mean.formula(part.loss_mask))


def test_single_precision_and_weights_of_updates_are_sound():
    assert failed(DecaysInSinglePrecision(), "split", "padding", "order") == {}
    assert failed(WeightsOfUpdatesAlone(), "draws", "finite") == {}


class AdvantagesOfTheFirstHalf(Rewards):
    """Both halves of a draw in turn get the advantages of its first rows."""

    def updates(self, batch, rng):
        for rows in ([0, 1], [2, 3]):
            part = batch.take(rows)
            yield part.with_values(weights=token_mean.formula(part.loss_mask), advantages=self.taken(batch, rows))

    def taken(self, batch, rows):
        return batch.advantages[: len(rows)]


class AdvantagesOfItsRows(AdvantagesOfTheFirstHalf):
    def taken(self, batch, rows):
        return batch.advantages[rows]


class AdvantagesMadeAnew(AdvantagesOfTheFirstHalf):
    """Each half is scaled by its own deviation."""

    def taken(self, batch, rows):
        return batch.advantages[rows] / (batch.rewards[rows].std() + 0.1)


def test_a_part_of_a_draw_has_the_numbers_of_its_rows():
    assert "are those that draw made for another one" in failed(AdvantagesOfTheFirstHalf(), "draws")["draws"].wrong
    assert failed(AdvantagesOfItsRows(), "draws") == {}
    assert failed(AdvantagesMadeAnew(), "draws") == {}
