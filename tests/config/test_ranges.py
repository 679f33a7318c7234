"""Every number that a shipped class takes has a range: it is shown, and what lies outside of it is refused by the key's name."""

import math
import types
import typing
from typing import Any

import pytest

from rlx.cli.verb.info import values_in_force
from rlx.config.check import check_value
from rlx.config.groups import GROUPS, declared
from rlx.config.schema import conf_dir
from rlx.config.targets import REQUIRED, Parameter, locate, parameters_of, targets_in_folder
from rlx.errors import ConfigError
from rlx.fields import Range, Text


def options() -> list[tuple[str, str]]:
    """(group, class or function) of every shipped option, those of nodes within an option too."""
    found = {(group, target) for group in GROUPS for target in targets_in_folder(conf_dir() / group)}
    return sorted(found | {(group, target) for group in GROUPS for target in declared(group).values()})


def kinds(hint: Any) -> list[Any]:
    """The plain types within an annotation, those of items of lists too."""
    inner = typing.get_args(hint) if typing.get_origin(hint) is not typing.Literal else ()
    if typing.get_origin(hint) is typing.Annotated:
        inner = inner[:1]
    return [kind for item in inner for kind in kinds(item)] if inner else [hint]


def ranged(group: str, target: str) -> tuple[Any, dict[str, Parameter]]:
    owner = locate(target, "x")
    return owner, parameters_of(owner, ranges=GROUPS[group].ranges) or {}


@pytest.mark.parametrize(("group", "target"), options())
def test_every_number_has_a_range_that_info_shows(group, target):
    _, known = ranged(group, target)
    numeric = {
        name: item
        for name, item in known.items()
        if {int, float} & set(kinds(item.hint)) and str not in kinds(item.hint) and not item.given_by_caller
    }
    assert [name for name, item in numeric.items() if item.allowed is None] == []
    node = {"_target_": target, **dict.fromkeys(numeric)}
    lines = values_in_force(node, group.replace("/", "."))
    for name, item in numeric.items():
        assert any(f".{name} = null ({item.allowed})" in line for line in lines)


def outside(allowed: Any) -> list[Any]:
    if isinstance(allowed, Text):
        return ["", *(["no such beginning"] if allowed.begins_with else [])]
    if not isinstance(allowed, Range):
        return ["no such name"]
    limits = (allowed.above, allowed.at_least - 1, allowed.below, allowed.at_most + 1)
    wrong = [math.nan, math.inf, -math.inf, *(limit for limit in limits if math.isfinite(limit))]
    return [[value] for value in wrong] if allowed.each else wrong


@pytest.mark.parametrize(("group", "target"), options())
def test_what_lies_outside_is_refused_by_the_key_as_typed(group, target):
    owner, known = ranged(group, target)
    place = group.replace("/", ".")
    for name, item in known.items():
        for value in outside(item.allowed) if item.allowed is not None else ():
            one = Parameter(name, Any, REQUIRED, allowed=item.allowed)
            with pytest.raises(ConfigError) as caught:
                check_value({"_target_": target, name: value}, one, place, [], owner=owner)
            assert str(caught.value).startswith(f"{place}.{name}=")


def test_a_subclass_that_declares_a_field_anew_keeps_its_range():
    from dataclasses import dataclass

    from rlx.algorithm.sft import Sft

    @dataclass(frozen=True, kw_only=True)
    class Mine(Sft):
        pairs_per_step: int = 8

    with pytest.raises(ConfigError, match="pairs_per_step of Mine is 0, but must be a whole number at least 1"):
        Mine(pairs_per_step=0)
    assert parameters_of(Mine)["pairs_per_step"].allowed == parameters_of(Sft)["pairs_per_step"].allowed


def test_the_walk_reads_unions_and_lists():
    assert kinds(tuple[float | None, int]) == [float, types.NoneType, int]
