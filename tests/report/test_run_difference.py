from rlx.comparison.run_difference import Parting, RunDifference
from rlx.report.comparison import difference_lines

SAME = {"a": "x", "b": "y", "config": {}, "code": {}, "versions": {}, "results": {}, "parting": None, "lines": (3, 3)}


def test_runs_that_agree_are_said_to():
    lines = difference_lines(RunDifference(**SAME))
    assert lines[3] == (
        "Their metrics agree to the last bit over all steps that both have (3 lines of metrics); "
        "they agree in config, code, versions and machine."
    )
    assert lines[-1] == "results: the same"


def test_what_differs_stands_side_by_side_with_every_digit():
    parting = Parting(2, {"train/loss": (0.1, 0.1 + 2**-55)})
    found = RunDifference(**{**SAME, "parting": parting, "config": {"loss.beta": (0.1, None)}, "lines": (3, 4)})
    lines = difference_lines(found)
    assert "part at step 2, and agree before it (3 and 4 lines of metrics); they differ in config." in lines[3]
    assert "  train/loss  0.1  0.10000000000000003" in lines
    assert "  loss.beta  0.1  None" in lines


def test_a_parting_at_the_start_and_one_without_metrics():
    start = RunDifference(**{**SAME, "parting": Parting(0, {"eval/score": (1.0, 2.0)})})
    assert "from the first line on" in difference_lines(start)[3]
    assert "Nothing is known" in difference_lines(RunDifference(**{**SAME, "lines": (0, 3)}))[3]


def test_text_from_records_steers_no_terminal():
    assert "\x1b" not in "".join(difference_lines(RunDifference(**{**SAME, "config": {"k": ("\x1b[2J", "")}})))
