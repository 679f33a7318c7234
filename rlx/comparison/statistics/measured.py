"""The statistics of a comparison in one place: pure functions over arrays, randomness as an argument.

What was measured; tests/compare/test_simulation.py repeats it. Normal; skewed: lognormal; collapsing: 80 % of runs at 0.8 and
20 % at 0.2, each +-0.02; halves: the same with 50 % each; accuracy: of 512 prompts at 0.7.

Chance of a false "better" or "worse" between two equal algorithms at level 0.05 (40 000 draws; 2000 for unequal numbers):

    seeds          5       10      20      5 against 20    10 against 20
    normal         .043    .048    .048    .050            .058
    skewed         .019    .026    .037    .036            .042
    collapsing     .009    .031    .047    .049            .040
    halves         .022    .044    .048    .048            .059
    accuracy       .045    .049    .050

    all six pairs of four equal algorithms together, with Holm's adjustment:
    normal         .034    .039    .042
    skewed         .010    .009    .016
    collapsing     .005    .010    .028
    halves         .012    .057    .043

Welch's t alone errs where the numbers of seeds are unequal and scores skewed or collapsing (5 against 20: .09, .17), for then
the skewness of the two means does not cancel. So where one arm has 1.5 times the seeds of the other or more, p is the larger
one of Welch's and of the studentised permutation test's. With less than that, Welch's t errs in at most .06.

Coverage of the 95 % intervals (40 000 draws; 3000 to 10 000 for IQM, g, probability):

    seeds                                  3       5       10      20
    mean, t: normal                        .952    .950    .950    .950
             skewed                        .839    .822    .843    .868
             collapsing                    .485    .661    .887    .923
             halves                        .753    .937    .940    .957
    difference, Welch: normal              .965    .957    .952    .951
             skewed                        .980    .981    .973    .965
             collapsing                    .984    .990    .966    .953
    IQM of one task: normal                .951    .950    .95     .954
             skewed                                .920    .939    .940
             collapsing                            .949    .965    .959
    Hedges' g: normal                      .94     .96     .94     .95
    probability of improvement: normal     .958    .967    .959    .953
    IQM over 5 tasks, bootstrap: normal    .958    .952    .947

No interval of the mean holds for skewed or collapsing scores with 5 seeds: what was not seen cannot be covered.

Power of the verdict at the smallest detectable difference, promised 0.80: within .03 for 5, 10 and 20 seeds.
"""

UNLIKE_ERROR = "8 to 32 %"
"""Error of the verdict on means that are equal while one side collapses now and then, or is skewed: table above."""

MEAN_COVERAGE = {
    "skewed": ((7, "82 %"), (14, "84 %"), (30, "87 %")),
    "groups": ((7, "66 %"), (14, "89 %"), (30, "92 %")),
}
"""Shape of the scores -> (largest number of seeds, coverage of the 95 % t interval of the mean), from the table above."""
