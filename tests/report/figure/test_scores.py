from rlx.report.figure.base import Bar, Dot, Line, Tile, Zone
from rlx.report.figure.scores import difference_figure, improvement_figure, profile_figure, score_figure


def marks(figure, kind):
    return [mark for mark in figure.marks if isinstance(mark, kind)]


def test_every_seed_has_its_dot_beside_the_interval_of_its_variant(ordinary):
    figure = score_figure(ordinary)[0]
    dots = marks(figure, Dot)
    assert sum(dot.role == "seed" for dot in dots) == 31
    assert [dot.x for dot in dots if dot.role == "mean"] == [variant.mean for variant in ordinary.variants]
    assert [bar.low for bar in marks(figure, Bar)] == [variant.interval.low for variant in ordinary.variants]


def test_the_margin_is_shaded(ordinary):
    figure = difference_figure(ordinary)[0]
    assert marks(figure, Zone) == [Zone(-0.03, 0.03)]
    assert "Shaded" in figure.caption
    assert len(marks(figure, Dot)) == len(ordinary.pairs)


def test_the_matrix_shows_both_directions(ordinary):
    tiles = {(tile.x, tile.y): tile.share for tile in marks(improvement_figure(ordinary)[0], Tile)}
    assert len(tiles) == 20
    for (x, y), share in tiles.items():
        assert share + tiles[y, x] == 1


def test_the_profile_has_square_steps(ordinary):
    assert all(line.is_stepped for line in marks(profile_figure(ordinary)[0], Line))
