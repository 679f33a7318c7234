"""Every figure of a comparison."""

from __future__ import annotations

from collections.abc import Callable

from rlx.comparison.comparison import Comparison
from rlx.report.figure.base import Figure
from rlx.report.figure.choices import cost_figures, importance_figures, search_figures, setting_figures
from rlx.report.figure.curves import curve_figures, efficiency_figures, metric_figures, shown_logs
from rlx.report.figure.scores import aggregate_figures, difference_figure, improvement_figure, profile_figure, score_figure

_Makers = tuple[Callable[[Comparison], list[Figure]], ...]
_SCORES: _Makers = (score_figure, aggregate_figures, difference_figure, improvement_figure, curve_figures)
_CHOICES: _Makers = (
    profile_figure,
    importance_figures,
    setting_figures,
    cost_figures,
    search_figures,
)


def all_figures(comparison: Comparison) -> list[Figure]:
    """Every figure that the data allow and that says something, the most telling first."""
    logs = shown_logs(comparison)
    scores = [figure for make in _SCORES for figure in make(comparison)]
    training = [*efficiency_figures(comparison, logs), *metric_figures(comparison, logs)]
    return [*scores, *training, *(figure for make in _CHOICES for figure in make(comparison))]
