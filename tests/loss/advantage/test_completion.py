import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.advantage.completion import (
    Advantage,
    batch_normalized,
    best_of_group,
    gpg,
    group_centered,
    group_standardized,
    leave_one_out,
    max_rl,
    opo,
    whitened_baseline,
)

REWARDS = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.2, 0.9, 0.4, 0.3]], dtype=torch.float64)
LENGTHS = torch.tensor([[4, 2, 3, 5], [1, 1, 1, 1]])
GROUPED: list[Advantage] = [
    group_centered(),
    group_standardized(epsilon=1e-6),
    leave_one_out(),
    batch_normalized(epsilon=1e-6),
    whitened_baseline(epsilon=1e-6),
    opo(),
    gpg(divisor=1.0),
    best_of_group(),
    max_rl(epsilon=1e-6),
]


def of(advantage: Advantage, rewards: torch.Tensor = REWARDS) -> torch.Tensor:
    return advantage(rewards, lengths=LENGTHS[:, : rewards.shape[1]], greedy_rewards=torch.zeros(len(rewards)))


def test_golden_numbers():
    standardized, left_out = of(group_standardized(epsilon=1e-6))[0], of(leave_one_out())[0]
    assert standardized.tolist() == pytest.approx([1.30557969, -0.78334782, 0.26111594, -0.78334782], abs=5e-9)
    assert left_out.tolist() == pytest.approx([0.83333333, -0.5, 0.16666667, -0.5], abs=5e-9)


@pytest.mark.parametrize("advantage", GROUPED, ids=lambda item: type(item).__name__)
def test_a_group_of_one_is_refused(advantage):
    with pytest.raises(ShapeError, match=r"compares the completions of a prompt, but got rewards \(2, 1\).*group_size to 2"):
        of(advantage, REWARDS[:, :1])


@pytest.mark.parametrize(
    "advantage", [item for item in GROUPED if not isinstance(item, max_rl)], ids=lambda item: type(item).__name__
)
def test_a_constant_added_to_all_rewards_of_a_group_changes_nothing(advantage):
    if isinstance(advantage, batch_normalized):  # it divides by the deviation of all rewards, so the constant must be theirs
        torch.testing.assert_close(of(advantage, REWARDS + 3), of(advantage))
    else:
        torch.testing.assert_close(of(advantage, REWARDS + torch.tensor([[3.0], [-2.0]])), of(advantage))


@pytest.mark.parametrize("advantage", GROUPED, ids=lambda item: type(item).__name__)
def test_a_group_of_equal_rewards_teaches_nothing(advantage):
    # a third is not equal to the mean of four thirds in floating point
    flat = torch.stack([torch.full((4,), 1 / 3, dtype=torch.float64), REWARDS[1]])
    tolerance = 1e-12 if isinstance(advantage, opo) else 0
    assert of(advantage, flat)[0].abs().max().item() <= tolerance


@pytest.mark.parametrize("kind", [group_centered, leave_one_out])
def test_centred_advantages_sum_to_zero_in_each_group(kind):
    torch.testing.assert_close(of(kind()).sum(dim=1), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_leave_one_out_subtracts_the_mean_of_the_others():
    for index in range(4):
        others = [other for other in range(4) if other != index]
        torch.testing.assert_close(of(leave_one_out())[:, index], REWARDS[:, index] - REWARDS[:, others].mean(dim=1))


def test_the_batch_deviation_is_shared_and_the_whitened_one_is_of_what_is_left():
    centered = REWARDS - REWARDS.mean(dim=1, keepdim=True)
    torch.testing.assert_close(of(batch_normalized(epsilon=1e-6)), centered / (REWARDS.std() + 1e-6))
    assert of(whitened_baseline(epsilon=1e-9)).std().item() == pytest.approx(1)


def test_advantages_carry_no_gradient_and_take_a_row_a_prompt():
    assert of(group_centered(), REWARDS.clone().requires_grad_()).requires_grad is False
    with pytest.raises(ShapeError, match=r"takes rewards \[P, G\]"):
        group_centered()(REWARDS[0])


@pytest.mark.parametrize(("given", "said"), [(None, "gives None"), (torch.zeros(2), r"gives \(2,\)")])
def test_a_formula_that_gives_no_advantages_is_named(given, said):
    class Own(group_centered):
        def of_rewards(self, rewards, **needed):
            return given

    with pytest.raises(ShapeError, match=f"Own {said}, not an advantage for each reward"):
        of(Own())
