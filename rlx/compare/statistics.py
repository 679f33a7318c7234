"""The statistics of a comparison in one place: pure functions over arrays, randomness as an argument.

What was measured (tests/compare/test_simulation.py repeats it; 40 000 draws unless said).

Chance of a false "better" or "worse" between two equal algorithms, level 0.05, Welch's t:

    scores          5 seeds   10      20      5 against 20, as decided
    normal          .043      .048    .048    .045
    lognormal       .019      .026    .037    .037
    80 % high, 20 % collapsed    .009   .031   .047   .030
    50 % and 50 %   .022      .044    .048    .040

Over all six pairs of four equal algorithms with Holm's rule: at most .042 normal, .028 with collapses, .057 for 50/50.
Welch's t needs about equal numbers of seeds for skewed scores (5 against 20: up to .17 alone). So where one arm has
at least 1.5 times the seeds of the other, the p is the larger one of Welch's and of the studentised permutation test's.

Coverage of the 95 % intervals:

    interval                       normal: 3     5      10     20  | lognormal: 5     10     20  | collapses: 5    10     20
    mean, t                                .950  .950   .950   .950            .82    .84    .87              .67    .88    .93
    IQM of one task                        .950  .950   .950   .954
    difference, Welch                      .965  .960   .954   .949            .98    .97    .96              .99    .97    .95
    Hedges g                               .939  .962   .942   .947
    probability of improvement             .958  .967   .959   .953
    IQM over 5 tasks, bootstrap            .943  .968   .940

No interval of the mean holds for skewed or collapsing scores with 5 seeds: what was not seen cannot be covered.
"""

from rlx.compare.bootstrap import (
    bootstrap_interval,
    first_rank_probability,
    performance_profile,
    profile_band,
    row_iqm,
    row_mean,
    row_optimality_gap,
    stratified_bootstrap,
)
from rlx.compare.curve import align, area_under_curve, band
from rlx.compare.difference import TestResult, holm, paired, rank_test_p, studentised_permutation_p, tost_p, welch
from rlx.compare.effect import (
    hedges_g,
    hedges_g_interval,
    pooled_deviation,
    probability_of_improvement,
    probability_of_improvement_interval,
)
from rlx.compare.interval import Interval, deviation, iqm, iqm_interval, mean, mean_interval, optimality_gap, standard_error
from rlx.compare.power import detectable_difference, power, seeds_needed
from rlx.compare.rank import RankTest, friedman, task_ranks
from rlx.compare.search import expected_best, expected_best_band
from rlx.compare.shape import describe_shape

__all__ = [
    "Interval",
    "RankTest",
    "TestResult",
    "align",
    "area_under_curve",
    "band",
    "bootstrap_interval",
    "describe_shape",
    "detectable_difference",
    "deviation",
    "expected_best",
    "expected_best_band",
    "first_rank_probability",
    "friedman",
    "hedges_g",
    "hedges_g_interval",
    "holm",
    "iqm",
    "iqm_interval",
    "mean",
    "mean_interval",
    "optimality_gap",
    "paired",
    "performance_profile",
    "pooled_deviation",
    "power",
    "probability_of_improvement",
    "probability_of_improvement_interval",
    "profile_band",
    "rank_test_p",
    "row_iqm",
    "row_mean",
    "row_optimality_gap",
    "seeds_needed",
    "standard_error",
    "stratified_bootstrap",
    "studentised_permutation_p",
    "task_ranks",
    "tost_p",
    "welch",
]
