"""Verdicts as data."""

from rlx.check.finding import FAILED, NOT_APPLICABLE, PASSED, Verdict, broken, passed, skipped


def test_a_verdict_is_json():
    verdict = Verdict("split", "It adds up.", broken("it does not", number="1e-3", mend="weigh"))
    assert verdict.failed
    assert verdict.as_dict() == {
        "law": "split", "promise": "It adds up.", "status": FAILED, "number": "1e-3", "wrong": "it does not", "where": "",
        "example": "", "mend": "weigh", "cause": "",
    }  # fmt: skip


def test_only_a_broken_law_fails():
    assert [Verdict("a", "b.", finding).failed for finding in (passed("1"), skipped("why"))] == [False, False]
    assert (passed().status, skipped("why").status) == (PASSED, NOT_APPLICABLE)
