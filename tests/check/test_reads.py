"""What is read of a tree of dataclasses, by whom, and in what two trees differ."""

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pytest

from rlx.check.reads import DRAW, UPDATE, Reads, UnwatchableError, attributes_of, changed, watched_tree
from rlx.fields import Ranged, within


@dataclass(frozen=True)
class Part(Ranged):
    weight: float = within(above=0, default=0.5)
    power: int = 2

    def act(self):
        return self.weight**self.power


@dataclass(frozen=True)
class Whole:
    rate: float = 0.1
    part: Part = Part()
    several: dict[str, Any] = field(default_factory=lambda: {"one": Part(), "two": Part(weight=0.7)})

    def __post_init__(self):
        object.__setattr__(self, "half", self.rate / 2)
        object.__setattr__(self, "same", self.part)

    @cached_property
    def twice(self):
        return 2 * self.rate

    def dig(self):
        return self.__dict__["rate"]


def reads_of(act, owner=None):
    reads = Reads()
    twin = watched_tree(owner or Whole(), reads)
    with reads.within(DRAW):
        act(twin)
    assert set(reads.of) <= {DRAW}
    return reads.of.get(DRAW, set())


def test_a_read_belongs_to_its_phase_and_to_the_first_path_of_a_node():
    reads = Reads()
    twin = watched_tree(Whole(), reads)
    with reads.within(DRAW):
        assert twin.same.act() == 0.25
        with reads.within(UPDATE):
            assert twin.half == 0.05
    assert reads.of == {DRAW: {".same", ".part.weight", ".part.power"}, UPDATE: {".half"}}
    assert isinstance(twin, Whole)


def test_every_way_to_look_is_a_read():
    assert reads_of(lambda twin: twin.dig()) >= {".rate", ".half", ".part"}
    assert reads_of(lambda twin: vars(twin)) >= {".rate", ".half", ".part"}
    assert reads_of(lambda twin: repr(twin)) >= {".rate", ".part.weight", ".several.two.power"}
    assert reads_of(lambda twin: replace(twin, rate=0.2)) >= {".part"}
    assert reads_of(lambda twin: copy.copy(twin).rate) == {".rate"}
    assert reads_of(lambda twin: copy.deepcopy(twin).part.power) == {".part", ".part.power"}


def test_what_was_kept_before_is_read_anew_and_checks_of_ranges_are_no_reads():
    whole = Whole()
    assert whole.twice == 0.2
    assert reads_of(lambda twin: twin.twice, whole) == {".rate"}
    assert reads_of(lambda twin: twin.part.__post_init__()) == {".part"}


def test_two_trees_differ_in_what_the_constructor_made_too():
    one = attributes_of(Whole())
    assert changed(one, attributes_of(Whole())) == set()
    assert changed(one, attributes_of(Whole(rate=0.2))) == {".rate", ".half"}
    assert changed(one, attributes_of(Whole(part=Part(power=3)))) == {".part.power"}
    assert ".several.three" in changed(one, attributes_of(Whole(several={**Whole().several, "three": Part()})))


def test_what_admits_no_watcher_is_refused():
    @dataclass(frozen=True, slots=True)
    class Slotted:
        weight: float = 1.0

    class Own(dict):
        pass

    assert reads_of(lambda twin: twin.part, Whole(part=Slotted())) == {".part"}  # a leaf, compared by identity
    assert changed(attributes_of(Whole(part=Slotted())), attributes_of(Whole(part=Slotted()))) == {".part", ".same"}
    with pytest.raises(UnwatchableError):
        watched_tree(Whole(several=Own(one=Part())), Reads())
