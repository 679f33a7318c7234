"""Other values of hyperparameters, and which of them are looked at."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import rlx
from rlx.check.variant import mentioned, plain_fields, small, together, variants, watched
from tests.check.faulty import Preferences, Rewards


class Shape(Enum):
    ROUND = "round"
    SQUARE = "square"


@dataclass(frozen=True)
class Inner:
    beta: float = 0.5


@dataclass(frozen=True)
class Outer:
    rate: float = 0.1
    count: int = 2
    on: bool = False
    shape: Shape = Shape.ROUND
    how: Literal["a", "b"] = "a"
    limit: float | None = None
    inner: Inner = Inner()
    several: dict[str, Any] = field(default_factory=lambda: {"one": Inner()})

    def act(self):
        return self.rate + (self.inner.beta if self.on else 0)


def tried(name):
    return [dict(plain_fields(changed))[name] for found, changed in variants(Outer()) if found == name]


def test_every_leaf_has_other_values_of_its_type():
    assert {name for name, _ in variants(Outer())} == {name for name, _ in plain_fields(Outer())}
    assert tried("on") == [True]
    assert tried("shape") == [Shape.SQUARE]
    assert tried("how") == ["b"]
    assert 0.2 in tried("rate")
    assert all(isinstance(value, float) for value in tried("limit"))


def test_what_is_made_of_other_fields_is_no_hyperparameter():
    hybrid, mixture = (rlx.load("algorithm", name) for name in ("hybrid", "mixture"))
    betas = [name for name, _ in plain_fields(hybrid) if name.endswith("loss.beta")]
    assert betas == ["dpo.loss.beta", "grpo.loss.beta"]
    assert [name for name, _ in plain_fields(mixture) if name.endswith("beta")] == ["terms.preference.algorithm.loss.beta"]
    assert {name for name, _ in variants(hybrid)} <= {name for name, _ in plain_fields(hybrid)}


def test_the_values_of_one_hyperparameter_are_those_it_has_among_all():
    for owner in (Outer(), rlx.load("algorithm", "hybrid"), rlx.load("algorithm", "mixture")):
        every = [(name, repr(changed)) for name, changed in variants(owner)]
        for wanted in {name for name, _ in every}:
            alone = [(name, repr(changed)) for name, changed in variants(owner, wanted)]
            assert alone == [each for each in every if each[0] == wanted]
    assert list(variants(Outer(), "inner.nosuch")) == []


def test_a_positive_number_stays_positive():
    assert min(tried("rate")) > 0
    assert min(tried("count")) > 0


def test_what_is_looked_at_is_seen():
    seen: set[str] = set()
    assert watched(Outer(), seen).act() == 0.1
    assert seen == {"rate", "on"}
    assert isinstance(watched(Outer(on=True), seen), Outer)
    assert watched(Outer(on=True), seen).act() == 0.6
    assert {"inner", "inner.beta"} <= seen


def test_code_that_mentions_a_name_is_found():
    assert {"rate", "beta", "on"} <= mentioned(Outer)
    assert "nowhere_to_be_" + "read" not in mentioned(Outer)


def test_an_algorithm_is_checked_with_fewer_rows():
    assert small(Preferences(pairs_per_step=500)).pairs_per_step == 12
    assert small(Rewards(prompts_per_step=3)).prompts_per_step == 3


def test_several_hyperparameters_change_at_once_or_not_at_all():
    changed = together(Preferences(), ["pairs_per_step", "beta"], 0)
    assert (changed.pairs_per_step, changed.beta) == (9, 0.2)
    assert together(Preferences(), ["beta"], 1).beta == 0.05
    assert together(Preferences(), ["pairs_per_step", "beta"], 99) is None
