from rlx.workbench.bench import spread_of, summarised


def test_the_middle_round_and_the_ends():
    assert spread_of([3.0, 1.0, 10.0]) == {"median": 3.0, "low": 1.0, "high": 10.0}


def test_a_round_that_did_not_get_there_leaves_no_median():
    assert spread_of([3.0, None, 10.0]) == {"median": None, "low": None, "high": None}


def test_every_figure_of_the_rounds_is_summed_up_and_texts_are_not():
    rounds = [{"speed": speed, "phases": {"draw": 2 * speed}, "trace": "file"} for speed in (1, 2, 6)]
    expected = {"median": 2.0, "low": 1.0, "high": 6.0}
    assert summarised(rounds) == {"speed": expected, "phases": {"draw": {name: 2 * value for name, value in expected.items()}}}
