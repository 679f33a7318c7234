"""Names of jobs, and what makes two of them the same."""

import re

import pytest

from rlx.sweep.plan import digest_of, name_of, readable


def test_a_name_says_what_differs():
    assert readable(["algorithm.dpo_weight=0.25", "seed=3"]) == ["dpo_weight-0.25", "seed-3"]
    assert readable(["algorithm=hybrid", "loss@algorithm.dpo.loss=ipo"])[0] == "algorithm-hybrid"
    assert readable(["task.path=data/pairs.jsonl"]) == ["path-pairs.jsonl"]
    assert name_of(["algorithm.dpo_weight=0.25", "seed=3"], "0123456789abcdef") == "dpo_weight-0.25_seed-3_01234567"


def test_a_long_value_hides_neither_the_seed_nor_the_other_values():
    name = name_of(["algorithm.note=" + "x" * 100, "loss.beta=0.1", "seed=3"], "0123456789abcdef")
    assert re.fullmatch(r"note-x{10,}_beta-0.1_seed-3_01234567", name)


@pytest.mark.parametrize(
    "differs",
    [
        ["task.path='/some where/ü (1),=;$x.jsonl'"],
        ["+a.b=" + "x" * 500],
        ["a=[1,2,3]", "b={c:1}"],
        ["~x", "y=-.5"],
        [f"algorithm.key_{number}={number}" for number in range(60)],
        ["a=../../etc"],
    ],
)
def test_a_name_is_safe_and_short(differs):
    name = name_of(differs, "0123456789abcdef")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    assert len(name) < 60
    assert name.endswith("_01234567")


def test_names_of_other_identities_differ():
    long = ["task.path=" + "x" * 100]
    assert name_of(long, "11111111") != name_of(long, "22222222")
    assert digest_of(["a", "b"]) != digest_of(["b", "a"])
    assert digest_of(["a", "b"]) == digest_of(iter(["a", "b"]))
