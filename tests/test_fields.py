from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any

import pytest

import rlx.fields
from rlx.errors import ConfigError
from rlx.fields import Choice, Range, Ranged, check_hyperparameters, check_range, one_of, range_of, within
from rlx.loss.preference.base import PreferenceFormula
from rlx.loss.preference.margin import dpo
from tests.loss.catalogue import NAMES, load


def ranged(owner: Any) -> list[tuple[Any, str, Any]]:
    """(owner, field, range) of every hyperparameter, those of nodes within included."""
    found = []
    for item in fields(owner):
        value = getattr(owner, item.name)
        nodes = list(value.values()) if isinstance(value, dict) else [value] if is_dataclass(value) else []
        for node in nodes:
            found += ranged(node)
        if "range" in item.metadata:
            found.append((owner, item.name, item.metadata["range"]))
    return found


def illegal(allowed: Range | Choice) -> list[Any]:
    values: list[Any] = ["0.1x", True, float("nan"), float("inf")]
    if isinstance(allowed, Range):
        values += [edge for edge in (allowed.above, allowed.below) if abs(edge) < 1e9]
        values += [end + step for end, step in ((allowed.at_least, -1), (allowed.at_most, 1)) if abs(end) < 1e9]
    return values


@pytest.mark.parametrize("name", NAMES)
def test_every_hyperparameter_refuses_what_lies_outside_of_its_range_and_says_so(name):
    loss = load(name)
    assert ranged(loss) or name in ("simper", "dft") or "nll" in name
    for owner, field, allowed in ranged(loss):
        for value in illegal(allowed):
            with pytest.raises(ConfigError, match=rf"{field} of {type(owner).__name__} is .* must be"):
                replace(owner, **{field: value})


@pytest.mark.parametrize("name", ["dpo", "simpo", "clipped", "dro"])
def test_whole_numbers_will_do_for_fractions(name):
    for owner, field, allowed in ranged(load(name)):
        if isinstance(allowed, Range) and 1 in allowed:
            assert getattr(replace(owner, **{field: 1}), field) == 1


def test_the_message_says_what_to_do():
    with pytest.raises(ConfigError, match=r"beta of dpo is -0.1, but must be a finite number above 0; .* 0.1 is usual for dpo"):
        dpo(beta=-0.1)


@dataclass(frozen=True)
class Knobs:
    share: float = within(at_least=0, at_most=1)
    count: int = within(at_least=1, whole=True)
    limit: float | None = within(above=0, optional=True)
    kind: str = one_of(("sum", "mean"))

    def __post_init__(self) -> None:
        check_hyperparameters(self)


def test_ranges_whole_numbers_nulls_and_names():
    good = Knobs(share=0, count=3, limit=None, kind="sum")
    for wrong in ({"share": 1.01}, {"count": 1.5}, {"count": 0}, {"limit": 0}, {"share": None}):
        with pytest.raises(ConfigError):
            replace(good, **wrong)
    with pytest.raises(ConfigError, match="did you mean mean"):
        replace(good, kind="meen")


def test_a_range_reads_well():
    assert str(Range(above=0)) == "a finite number above 0"
    assert str(Range(at_least=0, below=0.5)) == "a finite number at least 0 and below 0.5"
    assert str(Range(at_least=1, whole=True, optional=True)) == "a whole number at least 1 or null"


def test_a_whole_number_of_hundreds_of_digits_is_in_no_range():
    assert 10**400 not in Range(above=0)
    assert 10**400 not in Range(at_least=1, whole=True)
    assert 10**300 in Range(above=0)


@dataclass(frozen=True)
class Noted(Ranged):
    """Its ranges stand in annotations."""

    mix: Annotated[float, within(at_least=0, at_most=1)] = 0.5
    kind: "Annotated[str, one_of(('a', 'b'))]" = "a"
    free: float = 0.0


@dataclass(frozen=True)
class NotedBelow(Noted):
    mix: float = 0.25


def test_a_field_has_the_range_that_its_annotation_notes():
    assert range_of(Noted, "mix") == Range(at_least=0, at_most=1)
    assert range_of(Noted, "free") is None
    for owner in (Noted, NotedBelow):
        with pytest.raises(ConfigError, match=f"mix of {owner.__name__} is 2.0, but must be a finite number at least 0"):
            owner(mix=2.0)
    with pytest.raises(ConfigError, match="kind of Noted is 'c', but must be one of a, b"):
        Noted(kind="c")


@pytest.mark.parametrize("value", [1e-320, -1e-320, 1e-40])
def test_a_number_that_float32_loses_is_in_no_range(value):
    allowed = Range(above=-1, advice="1 is usual")
    assert value not in allowed
    assert 2.0**-126 in allowed
    assert 0.0 in allowed
    with pytest.raises(
        ConfigError, match=r"k=.*e-.*: it must be a finite number above -1 that float32 holds, not below 1\.17549e-38; 1 is"
    ):
        check_range("k", value, allowed)


@pytest.mark.parametrize("allowed", [None, Range(at_least=1)])
def test_a_whole_number_of_more_than_64_bits_is_refused(allowed):
    check_range("loss.beta", 2**62, allowed)
    with pytest.raises(ConfigError, match=r"loss\.beta=1000.*: a whole number has at most 64 bits"):
        check_range("loss.beta", 10**22, allowed)


def test_a_class_made_of_a_function_has_its_name_where_make_dataclass_gives_another_module(monkeypatch):
    """From Python 3.12 on it gives the module that called it."""

    def of_a_later_python(*arguments, **options):
        made = make_dataclass(*arguments, **options)
        made.__module__ = rlx.fields.__name__
        return made

    def formula(margin, *, beta=0.1):
        return beta * margin

    monkeypatch.setattr(rlx.fields, "make_dataclass", of_a_later_python)
    made = rlx.fields.class_of(formula, PreferenceFormula, ["margin"])
    assert (made.__module__, made.__qualname__) == (formula.__module__, formula.__qualname__)
