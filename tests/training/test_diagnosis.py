import pytest

from rlx.training.diagnosis import WINDOW, Watched, diagnose, mean_figure

HEALTHY = {
    "train/loss": 0.5,
    "train/groups_without_signal": 0.2,
    "train/reward_std": 0.4,
    "train/reward_mean": 0.3,
    "train/ratio_mean": 1.01,
    "train/grad_norm": 0.7,
    "train/reward/exact_match": 0.3,
}


def run(score=(0.5, 0.6), kl=(0.0, 1.0), without=(), **changes):
    figures = {name: value for name, value in {**HEALTHY, **changes}.items() if name not in without}
    steps = [{"step": step + 1, **figures} for step in range(25)]
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
        ({"train/grpo/groups_without_signal": 0.9, "train/groups_without_signal": 0.0}, "raise its group_size"),
        ({"train/truncated_fraction": 0.5}, "50% of the completions are cut off"),
        ({"train/clip_fraction_low": 0.2, "train/clip_fraction_high": 0.25}, "45% of the tokens are clipped"),
        ({"train/reward_std": 0.0, "train/reward_mean": 0.0}, "every completion has the reward 0"),
        ({"train/loss": 1e-5, "train/ratio_mean": 1.0}, "the loss is 0 by construction"),
        ({"train/policy_loss": 1e-5, "train/ratio_mean": 1.0}, "the loss is 0 by construction"),
        ({"train/grad_norm": 3e7, "train/grad_norm_clipped": 1.0}, "norms such as 3e+07 and are clipped to 1:"),
    ],
)
def test_a_symptom_is_named_with_its_number(changes, words):
    (finding,) = diagnose(run(**changes))
    assert words in finding.words
    assert finding.is_fault == ("by construction" not in words)


def test_a_loss_of_zero_that_moves_nothing_is_not_excused():
    (finding,) = diagnose(run(**{"train/loss": 0.0, "train/ratio_mean": 1.0, "train/grad_norm": 0.0}))
    assert finding.words.startswith("none of the last 20 steps had a gradient")
    silent = diagnose(run(**{"train/grad_norm": 0.0, "train/reward_std": 0.0}))
    assert [finding.name for finding in silent] == ["dead_reward"]


def test_terms_of_a_mixture_are_not_added_up():
    shares = {f"train/{term}/clip_fraction_low": 0.2 for term in ("first", "second")}
    assert diagnose(run(without=HEALTHY.keys() - {"train/loss"}, **shares)) == []
    lost = {"train/a/policy_loss": 0.0, "train/a/ratio_mean": 1.0, "train/a/grad_norm": 1.0}
    (finding,) = diagnose(run(without=["train/ratio_mean"], **lost))
    assert finding.words.startswith("a: the loss is 0 by construction")
    assert finding.name == "a/zero_loss"


@pytest.mark.parametrize(("kl", "score", "count"), [(25.0, 0.1, 1), (3.0, 0.5, 1), (25.0, 0.7, 0), (1.0, 0.1, 0)])
def test_drift_without_a_gain_is_named(kl, score, count):
    findings = diagnose(run(score=(0.5, score), kl=(0.0, kl)))
    assert [f"{kl} nats" in finding.words for finding in findings] == [True] * count


def test_only_the_last_steps_count():
    lines = [{"step": step, **HEALTHY, "train/groups_without_signal": 1.0} for step in range(10)]
    assert diagnose([*lines, *run()]) == []


def test_means_are_over_the_lines_that_have_the_figure():
    assert mean_figure([{"a": 1.0}, {"a_low": 1.0, "a_high": 2.0}, {"ab": 9.0}], "a") == 2.0
    assert mean_figure([{"b": 1.0}], "a") is None


class Said:
    def __init__(self):
        self.warnings, self.notes, self.steps = [], [], []

    def step(self, step, metrics):
        self.steps.append(step)

    def evaluated(self, step, metrics):
        self.steps.append("evaluated")

    def warn(self, text):
        self.warnings.append((self.steps[-1], text))

    def note(self, text):
        self.notes.append((self.steps[-1], text))


def test_a_finding_is_said_once_as_soon_as_it_shows():
    view = Said()
    watched = Watched(view)
    watched.evaluated(0, {"eval/score": 0.5, "eval/kl": 0.0})
    for step in range(1, 61):
        line = {**HEALTHY, "train/loss": 0.0, "train/ratio_mean": 1.0, "train/truncated_fraction": float(step > 30)}
        watched.step(step, line | ({"eval/score": 0.1, "eval/kl": 9.0} if step == 50 else {}))
    (truncated, runaway), (zero,) = view.warnings, view.notes
    assert zero[0] == WINDOW
    assert "by construction" in zero[1]
    assert 30 < truncated[0] <= 30 + WINDOW
    assert "cut off" in truncated[1]
    assert runaway[0] == 50
    assert "9.0 nats" in runaway[1]
    assert view.steps == ["evaluated", *range(1, 61)]
