"""A few steps on made-up numbers: in what two of them differ, and what the second one does not compute again."""

from dataclasses import dataclass, replace

import rlx
from rlx.check.journey import FIGURES, LEARNING, LOSS, MEASURED, NOTHING, Journey, journey
from rlx.check.law.hyperparameter import SPREADS, Known
from rlx.check.variant import small
from rlx.training.gradients import AccumulatedGradients
from tests.check.checking import subject
from tests.check.faulty import Preferences

SOME = journey(subject(Preferences()), 0.4)


def test_differences_have_names():
    assert SOME.difference(SOME) == NOTHING
    assert SOME.difference(replace(SOME, figures="other")) == FIGURES
    assert SOME.difference(replace(SOME, measured="other")) == MEASURED
    assert SOME.difference(replace(SOME, loss=tuple(value + 1 for value in SOME.loss))) == LOSS
    assert SOME.difference(replace(SOME, policy=SOME.policy[:1])) == LEARNING
    assert SOME.difference(Journey.refused_by(ValueError("no"))) == LEARNING


@dataclass(frozen=True, kw_only=True)
class Logging(Preferences):
    """A number that validate alone reads, and one that nobody reads."""

    threshold: float = 0.5
    idle: int = 3

    def validate(self, lab):
        return {"over": self.threshold}


def test_another_value_is_tried_on_what_reads_it_alone(monkeypatch):
    whole = subject(small(Logging()))
    known = Known(whole)
    mine = known.journey(whole.algorithm, SPREADS[0])
    assert mine.recorded.reads is not None
    asked = []
    original = AccumulatedGradients.__call__
    monkeypatch.setattr(AccumulatedGradients, "__call__", lambda self, by=None: asked.append(1) or original(self, by))
    changed = replace(whole.algorithm, threshold=0.7)
    assert known.difference(whole.algorithm, changed, spreads=SPREADS[:1]) == MEASURED
    assert known.difference(whole.algorithm, replace(whole.algorithm, idle=4), spreads=SPREADS[:1]) == NOTHING
    assert not asked
    assert known.difference(whole.algorithm, replace(whole.algorithm, beta=0.7), spreads=SPREADS[:1]) == LEARNING
    assert asked == [1]  # and no more than up to the first difference


def test_a_check_asks_for_few_gradients(monkeypatch):
    """What takes the time of a check; those of this law are 196, and were 642 without replay."""
    algorithm = rlx.load("algorithm", "ppo")
    asked = []
    original = AccumulatedGradients.__call__
    monkeypatch.setattr(AccumulatedGradients, "__call__", lambda self, by=None: asked.append(1) or original(self, by))
    whole = subject(small(algorithm))
    from rlx.check.checker import LAWS

    assert LAWS["hyperparameters"](whole).status == "passed"
    assert len(asked) < 250
