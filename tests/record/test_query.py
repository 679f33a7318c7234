"""`where` means what it says, and what it cannot mean is refused with the mend."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.errors import ConfigError
from rlx.record.query import Literal, keep, resolve

RUNS: list[dict[str, Any]] = [
    {"run": "a", "seed": 0, "loss.beta": 0.1, "status": "completed", "variant": "dpo loss.beta=0.1", "eval/kl": 1.5, "age": 30.0},
    {
        "run": "b",
        "seed": 1,
        "loss.beta": 0.2,
        "status": "failed",
        "variant": "ipo",
        "started": "2026-11-22T11:00:00+00:00",
        "flag": True,
    },
    {"run": "c", "seed": 7, "status": "completed", "variant": "dpo, long", "age": 7200.0, "flag": None, "path": "x=y<3"},
]


def names(where: str | None) -> str:
    return "".join(item["run"] for item in keep(RUNS, where, facts=lambda item: item))


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (None, "abc"),
        ("", "abc"),
        (" ", "abc"),
        ("seed=0", "a"),
        ("seed==0.0", "a"),
        ("seed!=0", "bc"),
        ("seed<1", "a"),
        ("seed<=1", "ab"),
        ("seed>1", "c"),
        ("seed>=1e0", "bc"),
        ("loss.beta<0.2 and status=completed", "a"),
        ("loss.beta<0.2, status=completed", "a"),
        ("beta>0", "ab"),
        ("kl>1", "a"),
        ("beta=null", "c"),
        ("beta!=null", "ab"),
        ("beta!=0.1", "bc"),
        ("flag=true", "b"),
        ("flag=1", ""),
        ("flag=null", "ac"),
        ("seed in [0, 7]", "ac"),
        ("seed in (1)", "b"),
        ("status in [failed, 'x']", "b"),
        ("not status=failed", "ac"),
        ("not (seed=0 or seed=7)", "b"),
        ("seed=0 or seed=1 and status=completed", "a"),
        ("(seed=0 or seed=1) and status=failed", "b"),
        ("SEED=0 or seed=1", None),
        ("seed=0 OR seed=1", "ab"),
        ("seed=0 AND beta=0.1", "a"),
        ("variant=dpo*", "ac"),
        ("variant='dpo*'", ""),
        ("variant='dpo, long'", "c"),
        ('variant="dpo, long"', "c"),
        ("'variant'=ipo", "b"),
        ("age<1h", "a"),
        ("age>=2h", "c"),
        ("age<0.5min", ""),
        ("started<2026-11-23", "b"),
        ("started>2026-11-23", ""),
        ("path='x=y<3'", "c"),
        ("status<1", ""),
        ("not not seed=0", "a"),
    ],
)
def test_meaning(where: str, kept: str | None) -> None:
    if kept is None:
        with pytest.raises(ConfigError, match="did you mean seed"):
            names(where)
    else:
        assert names(where) == kept


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("seed", "compared with nothing"),
        ("seed=", "lacks a value"),
        ("=3", "a key is missing before `=`"),
        ("seed=1 and", "missing at the end"),
        ("seed=1 seed=2", "`seed` does not follow"),
        ("(seed=1", "bracket is not closed"),
        ("seed=1)", r"`\)` does not follow"),
        ("0<beta<1", "no run has a key 0"),
        ("beta>0<1", "two signs in a row"),
        ("seed='1", "is a quote not closed"),
        ("seed in 3", r"seed in \[1,2,3\]"),
        ("seed in [1", "list is not closed"),
        ("seed in []", "lacks a value"),
        ("seed<null", "null cannot be ordered"),
        ("seed<true", "cannot be ordered"),
        ("betta<1", "did you mean loss.beta"),
        ("seed ~ 3", "not `~`"),
        ("(" * 200 + "seed=1" + ")" * 200, "too many brackets"),
        ("not " * 5000 + "seed=1", "too many brackets"),
    ],
)
def test_what_cannot_be_meant_is_refused(where: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        names(where)


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=30)
    | st.lists(
        st.sampled_from(
            ["seed", "beta", "=", "<", "in", "[", "]", "(", ")", ",", "and", "or", "not", "'x'", "1", "null", '"', "*"]
        )
    ).map(" ".join)
)
def test_no_text_leads_to_another_error(where: str) -> None:
    try:
        names(where)
    except ConfigError as error:
        assert "where" in str(error)  # noqa: PT017


@settings(deadline=None)
@given(st.floats(allow_nan=False) | st.text("ab'\"*?[ =,", max_size=5))
def test_a_quoted_or_bare_value_equals_itself(value: float | str) -> None:
    if isinstance(value, float):
        assert Literal(repr(value), False).equals(value)
    else:
        assert Literal(value, True).equals(value)


def test_a_pattern_knows_no_more_than_the_star_and_the_question_mark() -> None:
    assert Literal("a[b]*", False).equals("a[b]c")
    assert not Literal("a[b]*", False).equals("abc")
    assert Literal("?pt", False).equals("opt")


def test_the_shallowest_ending_is_meant_and_a_tie_is_refused() -> None:
    assert resolve("beta", ["algorithm.loss.beta", "loss.beta"]) == "loss.beta"
    assert resolve("loss.beta", ["algorithm.loss.beta", "x"]) == "algorithm.loss.beta"
    assert resolve("anything", []) == "anything"
    with pytest.raises(ConfigError, match=r"columns: beta may be a\.beta or b\.beta"):
        resolve("beta", ["a.beta", "b.beta"], what="columns")
