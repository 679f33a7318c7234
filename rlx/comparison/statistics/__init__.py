"""Statistics over seeds, prompts and tasks: pure functions of arrays; randomness is an argument.

Their error rates were measured: `rlx guide statistics`. The numbers that cautions quote are defined here.
"""

FEW_PROMPTS_ERROR = "10 to 20 % with 16 prompts, 5 to 8 % with 32"
"""Error of the verdict where one algorithm alone fails on one prompt of ten."""

UNLIKE_ERROR = "8 to 34 %"
"""Error of the verdict on means that are equal while one side collapses now and then, or is skewed."""

MEAN_COVERAGE = {
    "skewed": ((7, "82 %"), (14, "84 %"), (30, "87 %")),
    "groups": ((7, "66 %"), (14, "89 %"), (30, "92 %")),
}
"""Shape of the scores -> (largest number of seeds, coverage of the 95 % t interval of the mean)."""
