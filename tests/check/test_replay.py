"""What a recorded run tells other ones, and what they compute themselves."""

from dataclasses import dataclass, replace

import pytest
import torch

from rlx.check.reads import DRAW, GRADIENT, START, UPDATE, UPDATES, VALIDATE
from rlx.check.replay import Parts, Recording, Run
from tests.check.checking import subject
from tests.check.faulty import Preferences


@dataclass
class Place:
    """A laboratory without a stand-in policy."""

    state: dict
    policy: object = None


@dataclass(frozen=True)
class Rule:
    first: int = 1
    second: int = 10
    idle: int = 0


def recorded(rule=Rule(), *, writes=False):
    """A run of two phases, one of which reads `first` and one `second`."""
    recording = Recording(rule)

    def go(algorithm, run):
        place = Place({})
        drawn = run.phase(DRAW, (0,), place, lambda: torch.tensor([float(algorithm.first)]))
        part = run.phase(UPDATES, (0, 0), place, lambda: drawn + algorithm.second)
        if writes:
            object.__setattr__(algorithm, "kept", 1)
        return float(part)

    made = go(rule, Run(into=recording))
    recording.watch(rule, lambda twin, run: go(twin, run) == made)
    return recording, go


def test_a_phase_that_reads_nothing_of_what_differs_is_taken():
    recording, go = recorded()
    assert recording.reading(Rule(first=2)) == {DRAW}
    assert recording.is_untouched_by(Rule(idle=5))
    assert not recording.is_untouched_by(Rule(second=5))
    asked = []

    class Asked(Rule):
        def __getattribute__(self, name):
            if name in ("first", "second"):
                asked.append(name)
            return super().__getattribute__(name)

    # a tree of another class differs at its root, so the class is set on an equal one
    other = Rule(second=20)
    run = Run(like=recording, algorithm=other)
    object.__setattr__(other, "__class__", Asked)
    assert go(other, run) == 21
    assert asked == ["second"]


def test_after_a_difference_everything_is_computed():
    recording, go = recorded()
    other = Rule(first=2)
    run = Run(like=recording, algorithm=other)
    assert go(other, run) == 12
    assert not run.is_alike
    same = Rule(first=True)  # differs in its tree, and draws the same
    run = Run(like=recording, algorithm=same)
    assert go(same, run) == 11
    assert run.is_alike


def test_what_was_written_into_a_recorded_batch_is_not_handed_on():
    recording, go = recorded()
    recording.events[DRAW, 0].result.add_(5)
    assert go(Rule(second=20), Run(like=recording, algorithm=Rule(second=20))) == 21


def test_nothing_is_known_of_an_algorithm_that_keeps_something_in_itself():
    recording, _ = recorded(writes=True)
    assert recording.reads is None
    assert recording.reading(Rule(second=2)) is None
    assert not Run(like=recording, algorithm=Rule(second=2)).is_alike


def test_what_is_read_before_any_phase_rules_out_all_of_them():
    recording, _ = recorded()
    recording.reads.of[START] = {".idle"}
    assert not Run(like=recording, algorithm=Rule(idle=2)).is_alike
    assert Run(like=recording, algorithm=Rule(second=2)).is_alike


def test_the_state_of_a_laboratory_is_brought_to_where_the_phase_left_it():
    recording = Recording(Rule())

    def draw(place):
        place.state["seen"] = torch.ones(1)

    place = Place({})
    Run(into=recording).phase(DRAW, (0,), place, lambda: draw(place))
    recording.watch(Rule(), lambda twin, run: True)
    other = Place({"else": torch.zeros(1)})
    Run(like=recording, algorithm=Rule(idle=1)).phase(DRAW, (0,), other, lambda: pytest.fail("computed"))
    assert other.state == {"seen": torch.ones(1)}


def test_gradients_are_repeated_as_they_were_and_others_are_computed():
    whole = subject(Preferences())
    laboratory = whole.stand_in()
    batch = whole.first_update(laboratory)
    recording = Recording(whole.algorithm)
    source = Run(into=recording).source((0, 0), laboratory, lambda: whole.source(laboratory, batch))
    first = source()["loss"][0].clone()
    recording.watch(whole.algorithm, lambda twin, run: True)
    run = Run(like=recording, algorithm=replace(whole.algorithm, max_grad_norm=7.0))
    run._part_alike = True
    made = []
    again = run.source((0, 0), laboratory, lambda: made.append(1) or whole.source(laboratory, batch))
    assert again.metrics == source.metrics
    assert torch.equal(again()["loss"][0], first)
    assert not made
    assert set(again(by=str)) == {"loss"}  # was not asked for before
    assert made == [1]


def test_parts_are_made_when_they_are_asked_for():
    made = []

    class Counts:
        def updates(self, batch, rng):
            for number in range(3):
                made.append(number)
                yield number

    parts = Parts(Counts(), None, None)
    assert not made
    assert parts.at(1) == 1
    assert made == [0, 1]
    assert parts.at(2) == 2
    assert parts.at(3) is None


def test_phases_are_distinct():
    assert len({START, DRAW, UPDATES, GRADIENT, UPDATE, VALIDATE}) == 6
