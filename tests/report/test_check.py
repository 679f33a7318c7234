"""What rlx check prints."""

from rlx.report.terminal import doctor_lines, law_lines, summary_line

HELD = {
    "law": "split",
    "status": "passed",
    "promise": "It adds up.",
    "number": "1e-16",
    "wrong": "",
    "where": "",
    "example": "",
    "mend": "",
}
BROKEN = {**HELD, "status": "failed", "wrong": "it does not", "where": "compute_loss", "example": "row 0", "mend": "weigh it"}
NOT = {**HELD, "law": "falls", "status": "not applicable", "number": "a surrogate"}


def test_a_law_is_one_line_with_its_number():
    assert law_lines(HELD) == ["passed  split            It adds up.  [1e-16]"]
    assert law_lines(NOT) == ["n/a     falls            a surrogate"]


def test_a_broken_one_says_what_where_and_how_to_mend():
    lines = law_lines(BROKEN)
    assert lines[0].startswith("FAILED  split")
    assert [line.split() for line in lines[1:]] == [
        ["wrong", "it", "does", "not"],
        ["where", "compute_loss"],
        ["example", "row", "0"],
        ["fix", "weigh", "it"],
    ]


def test_the_summary_counts():
    assert summary_line("loss=ipo", [HELD, NOT], 1.25).startswith("loss=ipo keeps every law that concerns it: 1 passed, 0 failed")
    assert "breaks split" in summary_line("loss=ipo", [BROKEN, HELD], 1.0)


def test_what_one_error_keeps_from_being_judged_is_said_once_with_the_number_of_laws():
    stopped = [{**NOT, "law": law, "number": "not judged", "cause": "split"} for law in ("falls", "tokens")]
    assert [law_lines(verdict) for verdict in stopped] == [[], []]
    said = summary_line("loss=ipo", [BROKEN, HELD, NOT, *stopped], 1.0)
    assert said.startswith(
        "loss=ipo breaks split; the error of split kept 2 of the laws from being judged: 1 passed, 1 failed, 1 not"
    )


def test_the_doctor_gives_advice_below_its_finding():
    facts = [
        {"mark": "ok", "name": "cpu", "found": "fast", "advice": ""},
        {"mark": "bad", "name": "disk", "found": "full", "advice": "x"},
    ]
    assert doctor_lines(facts) == ["ok    cpu   fast", "bad   disk  full", "            x"]


def test_control_characters_are_not_printed():
    assert "\x1b" not in "".join(law_lines({**BROKEN, "example": "\x1b[31mred"}))
