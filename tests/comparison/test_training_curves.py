import json

import numpy as np
import pytest

from rlx.comparison.comparison import compare
from rlx.comparison.training_curves import iqm_curves, metric_curves, metrics_to_draw, read_logs, resampled
from tests.comparison.records import write_run


def write_log(directory, *, seed, variant="custom_dpo", slope=1.0, steps=10, tokens=100.0, **options):
    write_run(directory, algorithm=variant, seed=seed, score=slope * steps / 100, num_steps=steps, **options)
    rows = [{"step": 0, "eval/score": 0.0, "eval/kl": 0.0}]
    for step in range(1, steps + 1):
        row = {"step": step, "train/loss": slope / step + seed, "train/constant": 1.0, "train/copy": slope / step + seed}
        row |= {"cost/tokens_trained": tokens * step, "cost/tokens_sampled": 0.0, "time/draw_seconds": 0.5}
        row |= {"time/update_seconds": 1.5, "time/evaluation_seconds": 100.0}
        rows.append(row | ({"eval/score": slope * step / 100, "eval/kl": 0.1 * step} if step % 5 == 0 else {}))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture
def logs(tmp_path):
    for variant, slope in (("custom_dpo", 1.0), ("grpo", 2.0)):
        for seed in range(3):
            write_log(tmp_path / f"{variant}{seed}", seed=seed, variant=variant, slope=slope)
    return read_logs(compare(tmp_path).runs)


def test_positions_are_cumulative_and_leave_evaluations_out(logs):
    xs, ys = logs[0].curve("eval/kl", "tokens")
    assert xs.tolist() == [0, 500, 1000]
    assert ys == pytest.approx([0, 0.5, 1.0])
    assert logs[0].curve("eval/kl", "seconds")[0].tolist() == [0, 10, 20]
    assert logs[0].curve("train/nothing", "step")[0].size == 0


def test_metrics_that_say_nothing_are_left_out(logs):
    told = metrics_to_draw(logs)
    assert told[:2] == ["train/loss", "eval/kl"]
    assert not {"train/constant", "train/copy"} & set(told)
    assert "eval/score" in told


def test_a_curve_is_the_mean_over_seeds_with_its_single_runs(logs):
    curve = next(c for c in metric_curves(logs, "train/loss", "step", points=50, level=0.95) if c.variant == "grpo")
    assert curve.grid.tolist() == list(range(1, 11))
    assert curve.mean == pytest.approx([2 / step + 1 for step in range(1, 11)])
    assert [seed for seed, _ in curve.runs] == [0, 1, 2]
    assert (curve.low < curve.mean).all()


def test_the_mean_stops_where_the_first_completed_run_ends(tmp_path):
    for seed, tokens in enumerate((100.0, 200.0)):
        write_log(tmp_path / str(seed), seed=seed, tokens=tokens)
    curve = metric_curves(read_logs(compare(tmp_path).runs), "train/loss", "tokens", points=20, level=0.95)[0]
    assert np.isfinite(curve.mean[curve.grid > 1000]).sum() == 0
    assert np.isfinite(curve.mean[(curve.grid >= 200) & (curve.grid <= 1000)]).all()


def test_many_points_are_averaged_and_few_are_interpolated():
    xs = np.arange(1000.0)
    noisy = 1.0 + np.where(xs % 2 == 0, 0.5, -0.5)
    assert resampled(xs, noisy, np.linspace(0, 999, 20)) == pytest.approx(np.ones(20), abs=0.06)
    assert resampled(np.array([0.0, 10.0]), np.array([0.0, 1.0]), np.array([-1.0, 5.0, 11.0])) == pytest.approx(
        [np.nan, 0.5, np.nan], nan_ok=True
    )


def test_the_iqm_over_tokens_has_the_interval_of_the_table(tmp_path):
    for variant, slope in (("custom_dpo", 1.0), ("grpo", 2.0)):
        for seed in range(5):
            write_log(tmp_path / f"{variant}{seed}", seed=seed, variant=variant, slope=slope + seed / 10)
    comparison = compare(tmp_path)
    options = {"points": 30, "level": 0.95, "rng": np.random.default_rng(0), "num_resamples": 100}
    curves = iqm_curves(read_logs(comparison.runs), "eval/score", "tokens", tasks=comparison.tasks, **options)
    for curve, variant in zip(
        sorted(curves, key=lambda c: c.variant), sorted(comparison.variants, key=lambda v: v.label), strict=True
    ):
        assert curve.grid.tolist() == [0, 500, 1000]
        assert curve.mean[-1] == pytest.approx(variant.iqm)
        assert (curve.low[-1], curve.high[-1]) == pytest.approx((variant.iqm_interval.low, variant.iqm_interval.high))


def test_a_damaged_log_costs_its_curve_only(tmp_path):
    for seed in range(3):
        write_log(tmp_path / str(seed), seed=seed)
    comparison = compare(tmp_path)
    (tmp_path / "1" / "metrics.jsonl").write_text("nonsense\n{}\n")
    assert [log.run.seed for log in read_logs(comparison.runs)] == [0, 2]


def test_a_long_run_is_kept_in_means_of_neighbours(tmp_path, monkeypatch):
    place = write_log(tmp_path / "a", seed=0, steps=1000)
    run = compare(place, allow=["single"]).runs[0]
    (whole,) = read_logs([run])
    monkeypatch.setattr("rlx.comparison.training_curves._KEPT", 64)
    (short,) = read_logs([run])
    xs, ys = short.curve("train/loss", "step")
    every_x, every_y = whole.curve("train/loss", "step")
    assert len(xs) <= 65
    assert (xs[0], xs[-1]) == (every_x[0], every_x[-1]) == (1, 1000)
    assert ys[-1] == every_y[-1]
    for begin, end, value in zip(xs[:-2], xs[1:-1], ys[:-2], strict=True):
        assert value == pytest.approx(every_y[(every_x >= begin) & (every_x < end)].mean())
    assert short.curve("eval/kl", "tokens")[0][-1] == whole.curve("eval/kl", "tokens")[0][-1] == 100_000


def test_a_run_of_few_lines_keeps_every_value(logs):
    xs, ys = logs[0].curve("train/loss", "step")
    assert xs.tolist() == list(range(1, 11))
    assert ys.tolist() == [1 / step for step in range(1, 11)]
