"""What was measured about the statistics of a comparison; tests/comparison/test_simulation.py repeats it.

Over seeds alone. Normal; skewed: lognormal; collapsing: 80 % of runs at 0.8 and
20 % at 0.2, each +-0.02; halves: the same with 50 % each; accuracy: of 512 prompts at 0.7.

Chance of a false "better" or "worse" between two equal algorithms at level 0.05 (40 000 draws; 2000 for the last two columns):

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

Algorithms whose means are equal but whose shapes are not are called better or worse more often, for a collapse that no run has
shown yet cannot be allowed for (40 000 draws, standard error .002; 5, 10, 20 seeds):

    80 % at 0.8, 20 % at 0.2, against normal scores of the same mean    .336    .113    .078
    lognormal against normal scores of the same mean                    .083    .091    .089

What answers a question then: the chance of a collapse with its exact interval (Clopper and Pearson), and the chance that a run of
one beats a run of the other (question=chance; Brunner and Munzel over relabelled runs). Its error where that chance is one half
(1000 or 2000 draws a figure, standard error .005 to .007): .04 to .06 for collapsing and for four times wider scores, 5 to 20
seeds each; with 5 against 20 seeds up to .07, where the few are the wider ones.

Over seeds and prompts (`crossed`). Chance of a false "better" or "worse" between two algorithms that are equal over all prompts,
10 000 draws a figure (standard error .002), equal numbers of seeds. The logits of prompts vary by 1.5, those of seeds by 0.1;
last figure of a row: an algorithm's own effect on a prompt varies by 0 or 1 logit. binary: right or wrong; real: the logit plus
normal noise of 1; skewed: the exponential of that. With seeds that vary by 0 or by 0.3 the crossed test errs in at most .06 too
(4000 draws). Beside it: Welch's t over seeds, right on these prompts alone (prompts=fixed), and whether the percentile interval
of a bootstrap over seeds and prompts excludes 0 (300 to 1000 draws); that counts the noise of answers twice, so it finds less.

    prompts                    16                   64                   512
    seeds                5     10    20       5     10    20       5     10    20
    crossed, binary, 0   .022  .025  .027    .030  .031  .038    .042  .048  .050
    crossed, real, 0     .028  .029  .032    .036  .044  .043    .043  .049  .047
    crossed, skewed, 0   .013  .016  .016    .027  .032  .032    .041  .045  .050
    crossed, binary, 1   .035  .039  .046    .040  .044  .043    .046  .049  .049
    crossed, real, 1     .045  .048  .049    .047  .048  .049    .049  .050  .050
    crossed, skewed, 1   .028  .033  .036    .038  .041  .040    .052  .050  .051
    Welch's t, binary, 1 .121  .218  .342    .115  .212  .325    .086  .153  .252
    Welch's t, real, 1   .325  .504  .642    .271  .433  .580    .114  .213  .328
    Welch's t, skewed, 1 .295  .474  .616    .263  .440  .580    .148  .275  .423
    bootstrap, binary, 0 .003  .004  .002    .003  .000  .003    .020  .020  .003
    bootstrap, real, 0   .003  .002  .006    .018  .005  .007    .063  .037  .060
    bootstrap, skewed, 0 .008  .003  .000    .007  .005  .004    .060  .037  .020
    bootstrap, binary, 1 .013  .025  .041    .015  .016  .017    .017  .013  .033
    bootstrap, real, 1   .044  .059  .077    .033  .042  .046    .040  .047  .053
    bootstrap, skewed, 1 .055  .057  .077    .044  .054  .049    .060  .033  .057

Where one arm has 1.5 times the seeds of the other or more, a permutation test must agree here too, in which each relabelling gets
a normal draw of what other prompts add. 5 against 20 seeds, collapsing (real scores, a run of 5 two logits lower), interaction of
1: .05 to .06 with 64 and 512 prompts (700 draws a figure); a permutation over seeds alone, on these prompts: .08 to .10.
The 95 % interval of the difference, which is the t test's, covers .83 to .91 of these (16 prompts: .94).

Where one algorithm alone is far worse on one prompt of ten, with equal means over all prompts (real scores; 5, 10, 20 seeds;
1500 to 2000 draws, standard error .005 to .009), few prompts err more often; where both are, in at most .06.

    16 prompts   .103 .154 .195        32   .047 .079 .079        64    .052 .061 .059
    24           .075 .095 .093        48   .060 .067 .065        512   .041 .044 .040

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
    Hedges' g: normal                      .96     .96     .95     .95
    probability of improvement: normal     .958    .967    .959    .953
    IQM over 5 tasks, bootstrap: normal    .958    .952    .947

Hedges' g of unequal spreads (1 against 3) and seeds (5 to 20), by unpooled variances: .93 to .97 (2000 draws a figure, standard
error .005; the lowest of all figures that were measured is .934); a pooled one: .84.

The chance of being first: of two equal algorithms one gets 97.5 % or more in .013, .026, .035, .038 of comparisons (3, 5, 10, 20
seeds; 3000 draws, standard error .004), of four in less than .002. It is never surer than the adjusted p of a pair.

No interval of the mean holds for skewed or collapsing scores with 5 seeds: what was not seen cannot be covered.

Power of the verdict at the smallest detectable difference, promised 0.80: within .03 for 5, 10 and 20 seeds. Over seeds and
prompts, components known (100 000 draws a figure, normal answers, 16 to 512 prompts, 5 to 30 seeds, spread of seeds 0 to .4 and
interaction 0 to 1 in units of the residual): at the smallest difference that so many seeds or prompts find .80 (.798 to .806).
"""

CROSSED_ERROR = {
    ("binary", 0): ((0.022, 0.025, 0.027), (0.030, 0.031, 0.038), (0.042, 0.048, 0.050)),
    ("binary", 1): ((0.035, 0.039, 0.046), (0.040, 0.044, 0.043), (0.046, 0.049, 0.049)),
    ("real", 0): ((0.028, 0.029, 0.032), (0.036, 0.044, 0.043), (0.043, 0.049, 0.047)),
    ("real", 1): ((0.045, 0.048, 0.049), (0.047, 0.048, 0.049), (0.049, 0.050, 0.050)),
    ("skewed", 0): ((0.013, 0.016, 0.016), (0.027, 0.032, 0.032), (0.041, 0.045, 0.050)),
    ("skewed", 1): ((0.028, 0.033, 0.036), (0.038, 0.041, 0.040), (0.052, 0.050, 0.051)),
}
"""Kind of scores, interaction in logits -> for 16, 64, 512 prompts, the error of the crossed test with 5, 10, 20 seeds."""

FEW_PROMPTS_ERROR = "10 to 20 % with 16 prompts, 5 to 8 % with 32"
"""Error of the verdict where one algorithm alone fails on one prompt of ten: table above."""

UNLIKE_ERROR = "8 to 34 %"
"""Error of the verdict on means that are equal while one side collapses now and then, or is skewed: table above."""

MEAN_COVERAGE = {
    "skewed": ((7, "82 %"), (14, "84 %"), (30, "87 %")),
    "groups": ((7, "66 %"), (14, "89 %"), (30, "92 %")),
}
"""Shape of the scores -> (largest number of seeds, coverage of the 95 % t interval of the mean), from the table above."""
