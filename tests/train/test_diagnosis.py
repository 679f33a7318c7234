import pytest

from rlx.train.diagnosis import diagnose, mean_of_metric

HEALTHY = {
    "train/loss": 0.5,
    "train/groups_without_signal": 0.2,
    "train/reward_std": 0.4,
    "train/reward_mean": 0.3,
    "train/ratio_mean": 1.01,
}


def run(score=(0.5, 0.6), kl=(0.0, 1.0), **changes):
    steps = [{"step": step + 1, **HEALTHY, **changes} for step in range(25)]
    return [
        {"step": 0, "eval/score": score[0], "eval/kl": kl[0]},
        *steps[:-1],
        {**steps[-1], "eval/score": score[1], "eval/kl": kl[1]},
    ]


def test_a_healthy_run_has_no_findings():
    assert diagnose(run()) == []
    assert diagnose([]) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train/groups_without_signal": 0.75}, "75% of the groups have no signal"),
        ({"train/grpo/groups_without_signal": 0.9, "train/groups_without_signal": 0.0}, "90% of the groups"),
        ({"train/truncated_fraction": 0.5}, "50% of the completions are cut off"),
        ({"train/clip_fraction_low": 0.2, "train/clip_fraction_high": 0.25}, "45% of the tokens are clipped"),
        ({"train/reward_std": 0.0, "train/reward_mean": 0.0}, "every completion has the reward 0"),
        ({"train/loss": 1e-5, "train/ratio_mean": 1.0}, "the loss is 0 by construction"),
    ],
)
def test_a_symptom_is_named_with_its_number(changes, words):
    (finding,) = diagnose(run(**changes))
    assert words in finding


def test_drift_without_a_gain_is_named():
    (finding,) = diagnose(run(score=(0.5, 0.1), kl=(0.0, 25.0)))
    assert "25.0 nats" in finding
    assert diagnose(run(score=(0.5, 0.7), kl=(0.0, 25.0))) == []


def test_only_the_last_steps_count():
    lines = [{"step": step, **HEALTHY, "train/groups_without_signal": 1.0} for step in range(10)]
    assert diagnose([*lines, *run()]) == []


def test_means_are_over_the_lines_that_have_the_metric():
    assert mean_of_metric([{"train/a": 1.0}, {"train/x/a": 3.0}, {"eval/a": 9.0}], "a") == 2.0
    assert mean_of_metric([{"train/b": 1.0}], "a") is None
