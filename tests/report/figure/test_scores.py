from dataclasses import replace

from rlx.comparison.descriptive import KeyImportance
from rlx.report.figure.base import Bar, Dot, Line, Tile, Zone
from rlx.report.figure.scores import (
    cost_figures,
    difference_figure,
    importance_figures,
    improvement_figure,
    profile_figure,
    score_figure,
    search_figures,
    setting_figures,
)


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


def test_the_front_is_what_nothing_beats_in_both(ordinary):
    front = next(figure for figure in cost_figures(ordinary) if figure.name == "pareto-kl")
    kl, means = [variant.kl for variant in ordinary.variants], [variant.mean for variant in ordinary.variants]
    expected = sum(
        not any((k <= kl[i] and m > means[i]) or (k < kl[i] and m >= means[i]) for k, m in zip(kl, means, strict=True))
        for i in range(5)
    )
    assert sum(isinstance(mark, Dot) and mark.role == "ring" for mark in front.marks) == expected == 3


def test_a_mean_against_its_cost_has_its_interval(ordinary):
    front = next(figure for figure in cost_figures(ordinary) if figure.name == "pareto-kl")
    bars = {(mark.at, mark.low, mark.high) for mark in front.marks if isinstance(mark, Bar) and mark.is_upright}
    assert bars == {(v.kl, v.interval.low, v.interval.high) for v in ordinary.variants if v.interval is not None}
    assert front.y.low < min(low for _, low, _ in bars) < max(high for *_, high in bars) < front.y.high
    assert "Bar: 95 % interval of the mean" in front.caption


def test_where_less_is_better_the_front_and_the_captions_turn(ordinary):
    turned = replace(ordinary, choices=replace(ordinary.choices, lower_is_better=True))
    front = next(figure for figure in cost_figures(turned) if figure.name == "pareto-kl")
    kl, means = [variant.kl for variant in ordinary.variants], [variant.mean for variant in ordinary.variants]
    expected = {
        means[i]
        for i in range(5)
        if not any((k <= kl[i] and m < means[i]) or (k < kl[i] and m <= means[i]) for k, m in zip(kl, means, strict=True))
    }
    assert {mark.y for mark in front.marks if isinstance(mark, Dot) and mark.role == "ring"} == expected
    assert "Down and left is better" in front.caption
    assert "lower mean and a lower cost" in front.caption
    assert front.y.low < min(means) < max(means) < front.y.high
    assert "lower everywhere is better" in profile_figure(turned)[0].caption
    assert "(lower is better)" in improvement_figure(turned)[0].caption


def test_kl_is_not_drawn_against_itself(ordinary):
    of_kl = replace(ordinary, choices=replace(ordinary.choices, metric="eval/kl"))
    assert [figure.name for figure in cost_figures(of_kl)] == ["pareto-tokens"]


def test_without_costs_there_is_no_pareto(ordinary):
    bare = replace(
        ordinary, variants=tuple(replace(variant, kl=None, tokens=None, seconds=None) for variant in ordinary.variants)
    )
    assert cost_figures(bare) == []


def test_a_swept_key_has_a_figure_for_its_algorithm(ordinary):
    found = setting_figures(ordinary)
    assert [figure.title for figure in found] == ["Effect of dpo_weight in hybrid"]
    assert "algorithm.dpo_weight" in found[0].caption


def test_searches_are_shown_by_trials_and_by_tokens(ordinary):
    assert [figure.name for figure in search_figures(ordinary)] == ["search-trials", "search-tokens"]
    assert search_figures(replace(ordinary, searches=())) == []


def test_the_importance_of_swept_keys_is_a_bar_each(ordinary):
    assert importance_figures(ordinary) == []  # one key was swept: its effect is shown
    keys = [KeyImportance("hybrid", f"a.{name}", name, share, 0.1, 3, 18) for name, share in (("lr", 0.7), ("beta", 0.2))]
    figure = importance_figures(replace(ordinary, importances=tuple(keys)))[0]
    assert [mark.high for mark in figure.marks if isinstance(mark, Bar)] == [70, 20]
    assert figure.y.names[0] == "lr (moves the mean by 0.100)"
    assert "18 runs" in figure.caption
