"""Random numbers of a draw: new at each step, others for each seed."""

from rlx.check.law.chance import same_for_every_seed, same_values_by_place
from tests.check.checking import subject
from tests.check.lapses import NewCoins, SeedOfTheRun, SeedOfTheStep, TheSameCoins


def test_coins_of_another_step_are_other_ones():
    assert same_values_by_place(subject(NewCoins())) is None
    assert "weights.preference of steps 0, 1, 2" in same_values_by_place(subject(TheSameCoins())).wrong


def test_another_seed_draws_other_rows():
    assert same_for_every_seed(subject(SeedOfTheRun())) is None
    assert same_for_every_seed(subject(SeedOfTheStep())).where == "draw"
