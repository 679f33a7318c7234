"""Every figure of a comparison."""

from __future__ import annotations

from collections.abc import Callable

from rlx.comparison.comparison import Comparison
from rlx.report.figure.base import Figure
from rlx.report.figure.choices import cost_figures, search_figures, setting_figures
from rlx.report.figure.curves import curve_figures
from rlx.report.figure.scores import aggregate_figures, difference_figure, improvement_figure, profile_figure, score_figure

_MAKERS: tuple[Callable[[Comparison], list[Figure]], ...] = (
    score_figure,
    aggregate_figures,
    difference_figure,
    improvement_figure,
    curve_figures,
    profile_figure,
    setting_figures,
    cost_figures,
    search_figures,
)


def all_figures(comparison: Comparison) -> list[Figure]:
    """Every figure that the data allow and that says something, the most telling first."""
    return [figure for make in _MAKERS for figure in make(comparison)]
