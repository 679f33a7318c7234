import json
import math
import tracemalloc

import numpy as np
import pytest

from rlx.comparison.refusal import collect
from rlx.comparison.scores import count_failures, read_score
from rlx.comparison.training_curves import read_logs
from rlx.errors import DataError
from rlx.record.run import read_run
from tests.comparison.records import write_run, write_sweep


def score_of(directory, *, score="last", metric="eval/score"):
    return read_score(read_run(directory), metric=metric, score=score)


def test_the_last_evaluation_and_the_best_one(tmp_path):
    run = write_run(tmp_path / "a", score=0.6, curve=[0.3, 0.7, 0.6])
    assert score_of(run).score == 0.6
    assert score_of(run, score="best").score == 0.7
    assert score_of(run).area == pytest.approx((0.5 + 0.65) / 2)


def test_costs_and_noise_come_from_the_record(tmp_path):
    run = score_of(write_run(tmp_path / "a", score=0.5, tokens=1234, kl=0.25))
    assert (run.tokens, run.seconds, run.kl, run.step) == (1234, 12.5, 0.25, 100)
    assert run.prompt_error == pytest.approx(np.sqrt(0.25 / 511))


def test_a_recorded_standard_error_wins(tmp_path):
    directory = write_run(tmp_path / "a", score=0.5)
    (directory / "metrics.jsonl").write_text('{"step": 100, "eval/reward": 0.4, "eval/reward_standard_error": 0.07}\n')
    assert score_of(directory, metric="eval/reward").prompt_error == 0.07


@pytest.mark.parametrize(
    ("damage", "state", "note"),
    [
        (lambda d: (d / "metrics.jsonl").write_text(""), "completed", "metrics.jsonl ends before the run did"),
        (lambda d: (d / "metrics.jsonl").unlink(), "completed", "metrics.jsonl ends before the run did"),
        (lambda d: (d / "metrics.jsonl").write_text('{"step": 0, "eval/score": 0.1}\n{"st'), "completed", "ends before"),
    ],
    ids=["empty", "gone", "cut"],
)
def test_where_metrics_are_cut_the_result_stands_for_their_end(tmp_path, damage, state, note):
    directory = write_run(tmp_path / "a", score=0.6)
    damage(directory)
    run = score_of(directory)
    assert (run.score, run.state) == (0.6, state)
    assert note in run.notes[0]


@pytest.mark.parametrize(
    ("record", "state"),
    [
        ({"result": None}, "completed"),
        ({"status": "failed", "result": None}, "failed"),
        ({"status": "interrupted", "result": None}, "unfinished"),
        ({"status": "running", "result": None, "process": {"host": "elsewhere"}}, "unfinished"),
    ],
)
def test_what_a_status_counts_as(tmp_path, record, state):
    assert score_of(write_run(tmp_path / "a", score=0.6, record=record)).state == state


def test_a_completed_run_without_any_score_is_unfinished(tmp_path):
    directory = write_run(tmp_path / "a", record={"result": None})
    (directory / "metrics.jsonl").write_text("")
    run = score_of(directory)
    assert run.state == "unfinished"
    assert "holds no eval/score" in run.notes[-1]


def test_a_score_that_is_not_finite_is_a_failure(tmp_path):
    directory = write_run(tmp_path / "a")
    values = json.loads((directory / "run.json").read_text())
    values["result"]["performance_metrics"]["eval/score"] = "NaN"
    (directory / "run.json").write_text(json.dumps(values))
    run = score_of(directory)
    assert run.state == "failed"
    assert run.score is None


@pytest.mark.parametrize(
    ("record", "last", "said"),
    [
        ({}, {"step": 100, "eval/score": math.nan}, "run.json ends with eval/score 0.5, metrics.jsonl with nan"),
        ({}, {"step": 500, "eval/score": 0.9}, "run.json ends at step 100, metrics.jsonl holds eval/score of step 500"),
        ({"seed": 7}, None, "seed is 7 in run.json, and 0 in its config"),
        ({"error": {"type": "X", "message": "boom"}}, None, "run.json says completed, and holds an error"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path, record, last, said):
    directory = write_run(tmp_path / "a", score=0.5, record=record)
    if last is not None:
        with (directory / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(last) + "\n")
    with pytest.raises(DataError) as refused:
        score_of(directory)
    assert said in str(refused.value)


def test_a_score_that_was_changed_in_one_of_its_two_files_is_refused(tmp_path):
    directory = write_run(tmp_path / "a", score=0.5)
    values = json.loads((directory / "run.json").read_text())
    values["result"]["performance_metrics"]["eval/score"] = 0.500001  # written out again with fewer digits
    (directory / "run.json").write_text(json.dumps(values))
    assert score_of(directory).score == 0.500001
    values["result"]["performance_metrics"]["eval/score"] = 7.0
    (directory / "run.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"a: run\.json ends with eval/score 7, metrics\.jsonl with 0\.5; one of the two"):
        score_of(directory)


def test_a_run_that_ends_before_its_steps_is_unfinished_unless_it_may_stop_early(tmp_path):
    short = {"result": None}
    cut = '{"step": 40, "eval/score": 0.5}\n'
    for name, options, state in (("a", {}, "unfinished"), ("b", {"stop_at_score": 0.5}, "completed")):
        directory = write_run(tmp_path / name, record=short, **options)
        (directory / "metrics.jsonl").write_text(cut)
        assert score_of(directory).state == state


def test_failed_runs_get_the_lowest_score_ever_evaluated_or_drop_out(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.7, 0.8]})
    write_run(tmp_path / "broken", seed=5, status="failed", curve=[0.25, 0.1], score=None)
    runs = collect(tmp_path, metric="eval/score", score="last").runs
    worst = count_failures(runs, failed="worst")
    assert sorted(run.score for run in worst) == [0.1, 0.7, 0.8]
    assert [run.seed for run in worst if run.imputed] == [5]
    assert sorted(run.score for run in count_failures(runs, failed="exclude")) == [0.7, 0.8]


def test_answers_per_prompt_are_read_where_there_are_any(tmp_path):
    assert score_of(write_run(tmp_path / "a", score=2 / 3, answers=[1.0, 0.0, 1.0])).answers.tolist() == [1, 0, 1]
    assert score_of(write_run(tmp_path / "b")).answers is None
    assert score_of(write_run(tmp_path / "c", score=0.5, answers=[1.0, 0.0, 1.0])).answers is None  # of another score


def test_answers_are_those_of_the_evaluation_that_the_score_is_of(tmp_path):
    run = write_run(tmp_path / "a", score=0.5, curve=[0.25, 0.75, 0.5])
    rows = {0: [0, 0, 0, 1], 50: [1, 1, 1, 0], 100: [1, 0, 1, 0]}
    (run / "answers.jsonl").write_text("".join(json.dumps({"step": s, "score": a}) + "\n" for s, a in rows.items()))
    last = score_of(run)
    best = read_score(read_run(run), metric="eval/score", score="best")
    lowest = read_score(read_run(run), metric="eval/score", score="best", lower_is_better=True)
    assert (last.answers.tolist(), last.start_answers.tolist(), last.start) == (rows[100], rows[0], 0.25)
    assert (best.score, best.answers.tolist()) == (0.75, rows[50])
    assert (lowest.score, lowest.answers.tolist()) == (0.25, rows[0])


@pytest.mark.parametrize(
    ("at", "score", "step"),
    [(("steps", 50), 0.4, 50), (("tokens", 600), 0.4, 50), (("seconds", 9), 0.5, 75), (("steps", 100), 0.6, 100)],
)
def test_the_score_at_a_budget_is_of_the_last_evaluation_within_it(tmp_path, at, score, step):
    run = write_run(tmp_path / "a", score=0.6, curve=[0.2, 0.3, 0.4, 0.5, 0.6])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for place, row in enumerate(rows):
        row |= {"cost/tokens_trained": 250 * place, "cost/tokens_sampled": 0, "time/update_seconds": 3.0 * (place > 0)}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_score(read_run(run), metric="eval/score", score="last", at=at)
    assert (found.score, found.step, found.state) == (score, step, "completed")
    assert found.steps.max() <= step
    beyond = read_score(read_run(run), metric="eval/score", score="last", at=(at[0], 1e6))
    spent = {"steps": 100, "tokens": 1000, "seconds": 12}[at[0]]
    assert (beyond.state, beyond.score, beyond.short) == ("completed", 0.6, spent)
    assert found.short is None


def test_the_worst_score_is_the_highest_where_lower_is_better(tmp_path):
    runs = [
        score_of(write_run(tmp_path / "a", score=0.5, curve=[0.9, 0.5])),
        score_of(write_run(tmp_path / "b", status="failed")),
    ]
    assert [run.score for run in count_failures(runs, failed="worst", lower_is_better=True)] == [0.5, 0.9]
    assert count_failures(runs, failed="worst")[1].score == pytest.approx(0.3)


@pytest.mark.whole
def test_a_long_log_is_read_in_little_memory(tmp_path):
    directory = write_run(tmp_path / "long", score=0.5, num_steps=60_000)
    lines = (json.dumps({"step": step, "train/loss": 1 / (step + 1), "cost/tokens_trained": 10 * step}) for step in range(60_000))
    last = json.dumps({"step": 60_000, "eval/score": 0.5})
    (directory / "metrics.jsonl").write_text("\n".join((*lines, last)) + "\n")
    record = read_run(directory)
    tracemalloc.start()
    try:
        found = read_score(record, metric="eval/score", score="last")
        peak = tracemalloc.get_traced_memory()[1]
        read_logs([found])
        peak = max(peak, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert (found.score, found.evaluated) == (0.5, ("train/loss", "cost/tokens_trained", "eval/score"))
    assert peak < 8 * 2**20  # all lines as dictionaries take 30 MiB
