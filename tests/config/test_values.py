"""Which plain values are of which type."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal

import pytest

from rlx.cli.main import main
from rlx.config.check import described, fits


class Colour(Enum):
    RED = "red"


class Thing:
    pass


NODE = {"_target_": "my_lab.Thing"}

RIGHT = [
    (1, int), (1, float), (1.5, float), (True, bool), ("a", str), (None, None), (None, int | None),
    (2, int | None),
    ("b", Literal["a", "b"]), ("red", Colour), ("RED", Colour), ([1, 2], list[int]),
    ([1, 2], tuple[int, ...]), ([1, "a"], tuple[int, str]),

    ([], Sequence[str]), ({"a": 1}, Mapping[str, int]), (NODE, Thing), (NODE, Thing | None), (object, Any), (3, "int"),
    ([], frozenset[str]),
]  # fmt: skip
WRONG = [
    (True, int), (True, float), (1, bool), (1.0, int), ("1", int), ("x", float), (None, int), ("c", Literal["a", "b"]),
    (1, Literal[True]),
    ("blue", Colour), ([1, "a"], list[int]), (1, list[int]), ("ab", Sequence[str]), ([1], tuple[int, str]),
    ({"a": "b"}, Mapping[str, int]),
    (3, Thing), (None, Thing), ("x", int | None), (1, str),
]  # fmt: skip


@pytest.mark.parametrize(("value", "hint"), RIGHT)
def test_fits(value, hint):
    assert fits(value, hint)


@pytest.mark.parametrize(("value", "hint"), WRONG)
def test_does_not_fit(value, hint):
    assert not fits(value, hint)


def test_types_in_words():
    assert described(int | None) == "a whole number or null"
    assert described(tuple[float, float]) == "a list of 2 numbers"
    assert described(tuple[float, ...]) == described(list[float]) == "a list of numbers"
    assert described(Literal["a", "b"]) == "one of a, b"
    assert "Thing" in described(Thing)


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "policy=tiny", "num_samples=100000000"],
        ["evaluate", "policy=tiny", "task=arithmetic", "evaluation.samples_per_prompt=1000000000"],
        ["compare", "num_resamples=1000000000"],
    ],
)
def test_a_number_that_would_never_end_is_refused(words, capsys):
    assert main(words) == 2
    assert f"rlx: {words[-1]}: it must be a whole number at least 1" in capsys.readouterr().err
