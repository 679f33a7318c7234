from rlx.report.figure.base import Line
from rlx.report.figure.curves import curve_figures, thinned


def test_every_seed_has_its_line(ordinary):
    figure = curve_figures(ordinary)[0]
    lines = [mark for mark in figure.marks if isinstance(mark, Line)]
    assert sum(line.role == "seed" for line in lines) == 31
    assert [place for place, _ in figure.legend] == [0, 1, 2, 3, 4]
    assert figure.has_seeds


def test_long_lines_are_thinned_and_keep_their_last_point():
    xs, ys = thinned(range(1001), range(1001), most=100)
    assert len(xs) <= 101
    assert (xs[0], xs[-1], ys[-1]) == (0, 1000, 1000)
