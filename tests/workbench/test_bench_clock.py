from contextlib import suppress
from types import SimpleNamespace

import pytest

from rlx.data.sequences import Sequences
from rlx.workbench.bench import Clock, TimedAlgorithm, TimedOptimizer, count_completions, spread_of, summarised


class Now:
    """A clock that the test moves."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


@pytest.fixture
def now():
    return Now()


def spend(now, seconds):
    now.time += seconds


def test_a_phase_within_another_is_taken_out_of_it(now):
    clock = Clock(now)
    with clock("backward"):
        spend(now, 1)
        with clock("forward"):
            spend(now, 10)
            with clock("draw"):
                spend(now, 100)
        with clock("forward"):
            spend(now, 20)
    assert clock.take() == {"draw": 100, "forward": 30, "backward": 1}
    assert clock.take() == {}


def test_a_phase_that_raises_is_counted_and_closed(now):
    clock = Clock(now)
    with suppress(KeyError), clock("draw"):
        spend(now, 2)
        raise KeyError
    with clock("step"):
        spend(now, 3)
    assert clock.take() == {"draw": 2, "step": 3}


def sequences(prompts, group):
    import numpy as np

    return Sequences(tuple(np.array([1]) for _ in range(prompts)), tuple((np.array([2]),) * group for _ in range(prompts)))


def test_every_phase_of_an_algorithm_goes_to_its_own_account(now):
    batch = SimpleNamespace(sequences=sequences(3, 4))

    class Algorithm:
        name = "its own"

        def draw(self, lab):
            spend(now, 1)
            return batch

        def compute_loss(self, policy, reference, batch):
            spend(now, 10)
            return "loss"

        def update_policy(self, gradients, optimizer):
            assert gradients.batch is batch
            spend(now, 1000)
            return optimizer.step(gradients()["loss"], None)

    clock = Clock(now)
    timed = TimedAlgorithm(Algorithm(), clock)

    class Gradients:
        batch = None

        def __call__(self, by):
            timed.compute_loss(None, None, batch)
            spend(now, 100)
            return {"loss": [by]}

    class Optimizer:
        learning_rate = 0.5

        def step(self, gradients, clipping):
            spend(now, 10000)
            return {"given": gradients}

    gradients = Gradients()
    gradients.batch = timed.draw(None)
    optimizer = TimedOptimizer(Optimizer(), clock)
    assert timed.update_policy(gradients, optimizer) == {"given": [None]}
    assert clock.take() == {"draw": 1, "forward": 10, "backward": 100, "step": 10000}
    assert timed.completions == 12
    assert (timed.name, optimizer.learning_rate) == ("its own", 0.5)


def test_completions_of_a_mixture_are_those_of_its_parts():
    parts = {"dpo": SimpleNamespace(sequences=sequences(5, 2)), "grpo": SimpleNamespace(sequences=sequences(2, 3))}
    assert count_completions(SimpleNamespace(parts=parts)) == 16


def test_the_middle_round_and_the_ends():
    assert spread_of([3.0, 1.0, 10.0]) == {"median": 3.0, "low": 1.0, "high": 10.0}


def test_a_round_that_did_not_get_there_leaves_no_median():
    assert spread_of([3.0, None, 10.0]) == {"median": None, "low": None, "high": None}


def test_every_figure_of_the_rounds_is_summed_up_and_texts_are_not():
    rounds = [{"speed": speed, "phases": {"draw": 2 * speed}, "trace": "file"} for speed in (1, 2, 6)]
    expected = {"median": 2.0, "low": 1.0, "high": 6.0}
    assert summarised(rounds) == {"speed": expected, "phases": {"draw": {name: 2 * value for name, value in expected.items()}}}
