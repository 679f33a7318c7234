"""Names of jobs, and what makes two of them the same."""

import re

import pytest

from rlx.sweep.plan.plan import name_of, plan_digest, readable


def test_a_name_says_what_differs():
    assert readable(["algorithm.dpo_weight=0.25", "seed=3"]) == ["dpo_weight-0.25", "seed-3"]
    assert readable(["algorithm=hybrid", "loss@algorithm.dpo.loss=ipo"])[0] == "algorithm-hybrid"
    assert readable(["task.path=data/pairs.jsonl"]) == ["path-pairs.jsonl"]
    assert name_of(["algorithm.dpo_weight=0.25", "seed=3"], "0123456789abcdef") == "dpo_weight-0.25_seed-3_01234567"


def test_a_long_value_hides_neither_the_seed_nor_the_other_values():
    name = name_of(["algorithm.note=" + "x" * 100, "loss.beta=0.1", "seed=3"], "0123456789abcdef")
    assert re.fullmatch(r"note-x{10,}_beta-0.1_seed-3_01234567", name)


def test_a_number_is_rounded_and_never_cut():
    drawn = ["algorithm.x=-0.434386", "algorithm.y=3.02542e-05", "algorithm.rate=0.958801", "algorithm.k=1", "seed=0"]
    assert name_of(drawn, "0123456789abcdef") == "x--0.4344_y-3.025e-05_rate-0.9588_k-1_seed-0_01234567"
    many = [f"algorithm.key_{place}={place}.123456e-05" for place in range(9)]
    assert name_of([*many, "seed=3"], "0123456789abcdef") == "key_0-1.235e-06_key_1-1.123e-05_seed-3_01234567"
    assert readable(["policy.path=1234567/12345678", "seed=12345678"]) == ["path-12345678", "seed-12345678"]


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
    assert plan_digest(["a", "b"]) != plan_digest(["b", "a"])
    assert plan_digest(["a", "b"]) == plan_digest(iter(["a", "b"]))
