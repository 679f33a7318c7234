"""No law accuses a sound algorithm of unusual shape; an error of an algorithm is a broken law."""

import pytest
import torch

from rlx.check.checker import LAWS, check_algorithm, promise, tried
from rlx.errors import NonFiniteError
from tests.check.checking import failed, subject
from tests.check.faulty import Demonstrations, Preferences, Rewards
from tests.check.sound import SOUND

pytestmark = pytest.mark.whole

TRIES_MUCH = ("hyperparameters",)  # a second or more for each algorithm


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards, *SOUND], ids=lambda kind: kind.__name__)
def test_a_sound_algorithm_passes(kind):
    assert failed(kind(), *(law for law in LAWS if law not in TRIES_MUCH)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards, *SOUND], ids=lambda kind: kind.__name__)
def test_the_hyperparameters_of_a_sound_algorithm_matter(kind):
    assert failed(kind(), *TRIES_MUCH) == {}


def test_every_law_promises_something():
    assert all(promise(law).endswith(".") for law in LAWS.values())


def test_an_error_of_the_algorithm_is_a_broken_law_with_its_place():
    class Raises(Demonstrations):
        def compute_loss(self, policy, reference, batch):
            raise KeyError("nothing here")

    (verdict,) = check_algorithm(subject(Raises()), laws={"metrics": LAWS["metrics"]})
    assert verdict.failed
    assert "KeyError" in verdict.finding.wrong
    assert "test_checker.py" in verdict.finding.where


def test_where_no_step_can_be_made_the_cause_is_said_once():
    class Raises(Demonstrations):
        def draw(self, lab):
            raise KeyError("nothing here")

    verdicts = list(check_algorithm(subject(Raises())))
    assert [verdict.law for verdict in verdicts if verdict.failed] == ["runs"]
    assert [(verdict.law, verdict.cause) for verdict in verdicts if verdict.cause] == [("finite", "runs")]
    assert all("must hold first" in verdict.finding.number for verdict in verdicts if verdict.law not in ("runs", "finite"))


def test_an_error_at_the_same_line_is_said_by_the_first_law_that_meets_it():
    class Raises(Demonstrations):
        def draw(self, lab):
            if lab.policy.dtype == torch.float64:  # of the laws behind runs, not of runs
                raise ValueError(f"not at step {lab.step}")
            return super().draw(lab)

    laws = {name: LAWS[name] for name in ("runs", "repeats", "draws", "split")}
    verdicts = list(check_algorithm(subject(Raises()), laws=laws))
    assert [verdict.law for verdict in verdicts if verdict.failed] == ["repeats"]
    assert [(verdict.law, verdict.cause) for verdict in verdicts[2:]] == [("draws", "repeats"), ("split", "repeats")]


def test_a_number_that_is_none_is_looked_for_where_it_is_made_and_not_in_a_law_that_points_back():
    finding, has_raised = tried(_not_finite, subject(Preferences()))
    assert has_raised
    assert finding.mend == "fix this first: look there for a logarithm, a root or a quotient that has no value"


def _not_finite(subject):
    raise NonFiniteError("term 'preference' of the loss is not finite")
