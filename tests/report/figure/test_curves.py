import pytest

from rlx.comparison.comparison import compare
from rlx.report.figure.base import Band, Line
from rlx.report.figure.curves import MOST_SEEDS, curve_figures, efficiency_figures, metric_figures, shown_logs, thinned
from tests.comparison.records import write_run
from tests.comparison.test_training_curves import write_log


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    root = tmp_path_factory.mktemp("logged")
    for variant, slope in (("custom_dpo", 1.0), ("grpo", 2.0)):
        for seed in range(3):
            write_log(root / f"{variant}{seed}", seed=seed, variant=variant, slope=slope + seed / 10)
    return compare(root)


def test_every_seed_has_its_line(ordinary):
    figure = curve_figures(ordinary)[0]
    lines = [mark for mark in figure.marks if isinstance(mark, Line)]
    assert sum(line.role == "seed" for line in lines) == 31
    assert [place for place, _ in figure.legend] == [0, 1, 2, 3, 4]
    assert figure.has_seeds


def inside(figure):
    bands = [value for mark in figure.marks if isinstance(mark, Band) for value in (*mark.low, *mark.high) if value == value]
    return figure.y.low <= min(bands) and max(bands) <= figure.y.high


def test_bands_are_within_the_frame_or_said_to_be_cut(tmp_path):
    for name, spread in (("narrow", 0.001), ("wide", 0.2)):
        for seed in range(2):
            shift = spread * (seed - 0.5)
            write_run(tmp_path / name / str(seed), seed=seed, score=0.5 + shift, curve=[0.3, 0.4 + shift, 0.5 + shift])
    narrow, wide = (compare(tmp_path / name) for name in ("narrow", "wide"))
    figures = [*curve_figures(wide), *metric_figures(wide, shown_logs(wide))]
    assert inside(curve_figures(narrow)[0])
    assert "the frame cuts them" not in curve_figures(narrow)[0].caption
    cut = [figure for figure in figures if not inside(figure)]
    assert {"Learning curves", "Training curves"} <= {figure.title for figure in cut}
    assert all("the frame cuts them" in figure.caption for figure in cut)


def test_sample_efficiency_has_the_scale_of_the_learning_curves(logged):
    learning, efficiency = curve_figures(logged)[0], efficiency_figures(logged, shown_logs(logged))[0]
    assert (efficiency.y.low, efficiency.y.high) == (learning.y.low, learning.y.high)


def test_long_lines_are_thinned_and_keep_their_last_point():
    xs, ys = thinned(range(1001), range(1001), most=100)
    assert len(xs) <= 101
    assert (xs[0], xs[-1], ys[-1]) == (0, 1000, 1000)


def test_each_metric_is_drawn_over_steps_tokens_and_seconds(logged):
    figures = metric_figures(logged, shown_logs(logged))
    choices = [figure.choice for figure in figures]
    assert choices[:3] == [("train/loss", "step"), ("train/loss", "tokens"), ("train/loss", "seconds")]
    assert {metric for metric, _ in choices} == {"train/loss", "eval/kl", "eval/score"}
    assert {figure.family for figure in figures} == {"metrics"}
    lines = [mark for mark in figures[0].marks if isinstance(mark, Line)]
    assert [sum(line.role == role for line in lines) for role in ("seed", "mean")] == [6, 2]
    assert sum(isinstance(mark, Band) for mark in figures[0].marks) == 2


def test_each_task_has_its_curves_by_choice(tmp_path, monkeypatch):
    for task in ("sums", "products"):
        for seed in range(2):
            write_log(tmp_path / f"{task}{seed}", seed=seed, task=task, slope=1.0 + seed / 10 + (task == "sums"))
    comparison = compare(tmp_path, allow="tasks")
    figures = metric_figures(comparison, shown_logs(comparison))
    assert {figure.choice[2] for figure in figures} == {"sums", "products"} == set(comparison.tasks)
    assert len({figure.name for figure in figures}) == len(figures)
    ends = {figure.choice[2]: figure.marks[-1].ys[-1] for figure in figures if figure.choice[:2] == ("eval/score", "step")}
    assert ends["sums"] > ends["products"]
    monkeypatch.setattr("rlx.report.figure.curves.MOST_METRIC_FIGURES", 9)
    figures = metric_figures(comparison, shown_logs(comparison))
    assert {figure.choice[2] for figure in figures} == {comparison.tasks[0]}
    assert "one of 1 tasks shown of 2" in figures[0].caption


def test_sample_efficiency_is_drawn_with_its_intervals(logged):
    figures = efficiency_figures(logged, shown_logs(logged))
    assert [figure.choice for figure in figures] == [("step",), ("tokens",), ("seconds",)]
    assert [figure.is_printed for figure in figures] == [False, True, False]
    best = next(mark for mark in figures[1].marks if isinstance(mark, Line) and mark.colour == 0)
    assert best.ys[-1] == pytest.approx(logged.variants[0].iqm)


def test_what_is_left_out_is_said(tmp_path):
    for seed in range(MOST_SEEDS + 2):
        write_log(tmp_path / str(seed), seed=seed)
    comparison = compare(tmp_path)
    logs = shown_logs(comparison)
    assert len(logs) == MOST_SEEDS
    assert f"Shown: {MOST_SEEDS} runs of each variant." in metric_figures(comparison, logs)[0].caption


def test_losses_of_unlike_algorithms_are_said_to_be_no_one_quantity(logged):
    captions = {figure.choice[0]: figure.caption for figure in metric_figures(logged, shown_logs(logged))}
    assert {name for name, caption in captions.items() if "no better policy" in caption} == {"train/loss"}
    assert len(captions) > 1
