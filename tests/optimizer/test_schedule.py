import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlx.optimizer.schedule import Constant, Cosine, Linear, WarmupStableDecay


def test_linear_falls_in_a_straight_line():
    schedule = Linear(warmup_steps=0, final_factor=0.2)
    assert [schedule(step, 4) for step in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_way_in_the_middle():
    schedule = Cosine(warmup_steps=0, final_factor=0.0)
    assert [schedule(step, 10) for step in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    "schedule", [Constant(warmup_steps=3), Linear(warmup_steps=3, final_factor=0.0), Cosine(warmup_steps=3, final_factor=0.0)]
)
def test_warm_up_rises_to_one_and_never_starts_at_zero(schedule):
    assert [schedule(step, 100) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@given(st.integers(0, 20), st.floats(0, 1, width=32, allow_subnormal=False), st.integers(1, 200))
def test_factors_stay_between_zero_and_one(warmup_steps, final_factor, num_steps):
    for kind in (Linear, Cosine):
        factors = [kind(warmup_steps=warmup_steps, final_factor=final_factor)(step, num_steps) for step in range(num_steps)]
        assert all(0 <= factor <= 1 for factor in factors)


def test_only_decaying_schedules_need_a_horizon():
    assert not Constant.needs_horizon
    assert Constant(warmup_steps=1)(50, 60) == Constant(warmup_steps=1)(50, 6000)
    assert Linear.needs_horizon
    assert Cosine.needs_horizon


def test_warm_up_stable_decay_stays_at_one_and_falls_at_the_end():
    schedule = WarmupStableDecay(warmup_steps=2, decay_share=0.25, final_factor=0.2)
    factors = [schedule(step, 18) for step in range(19)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factors[2:15] == [1.0] * 13
    assert factors[14:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
