"""What is said at the end of a search."""

from types import SimpleNamespace

import pytest

pytest.importorskip("optuna")
from rlx.sweep.search.search import Search, best_of_search, draw_plots, summary_lines
from rlx.sweep.state import COMPLETED, JobState, SweepState
from tests.sweep.search.test_study import point, study


@pytest.fixture
def searched(tmp_path):
    """A search of eight trials with one seed, whose jobs are made up."""

    def make(confirmed=(), **changes):
        made = study(tmp_path, startup_trials=4, **changes)
        search = Search(made, SweepState(tmp_path, {}), made.settings, (0,), lambda differs, seed: None)
        for _ in range(8):
            number, differs = made.ask()
            figures = {"eval/score": 1 - (point(differs)["x"] - 0.3) ** 2, "eval/kl": point(differs)["x"]}
            job = JobState(f"j{number}", "v", 0, [*differs, "seed=0"], "h", state=COMPLETED, score=figures["eval/score"])
            search.figures[job.name] = figures
            search.trials[number] = type("Trial", (), {"jobs": [job], "number": number})()
            made.tell(number, [figures])
        for place, score in enumerate(confirmed):
            search.confirmed.append(JobState(f"c{place}", "v", place + 1, [], "h", state=COMPLETED, score=score))
            search.figures[f"c{place}"] = {"eval/score": score, "eval/kl": 10 * score}
        return search

    return make


def test_both_numbers_of_the_best_are_shown(searched):
    search = searched(confirmed=(0.5, 0.6, 0.7), confirm=3)
    best = best_of_search(search)
    assert best["confirmed_score"] == pytest.approx(0.6)
    text = "\n".join(summary_lines(search, best, {"x": 0.9, "y": 0.1}))
    assert "8 trials: 8 complete" in text
    assert "score 0.6 on fresh seeds 1-3" in text
    assert f"{best['score']:.4g}" in text
    assert "importance: x 90%, y 10%" in text
    assert "of 8 trials: these shares change with every further one, 40 or more settle them" in text


def test_the_confirmation_is_of_what_is_sought(searched):
    search = searched(confirmed=(0.5, 0.7), confirm=2, objectives=["-eval/kl"])
    best = best_of_search(search)
    assert best["objective"] == "eval/kl"
    assert best["scores"] == [best["score"]]
    assert best["confirmed_score"] == pytest.approx(6.0)
    assert "eval/kl 6 on fresh seeds 1,2" in "\n".join(summary_lines(search, best, {}))


def test_without_a_confirmation_it_says_that_luck_flatters(searched):
    search = searched()
    assert any("sweep.confirm=5" in line for line in summary_lines(search, best_of_search(search), {}))


def test_a_search_without_a_value_has_no_best(tmp_path):
    made = study(tmp_path)
    search = Search(made, SweepState(tmp_path, {}), made.settings, (0,), lambda differs, seed: None)
    assert best_of_search(search) is None
    assert "no best variant" in summary_lines(search, None, {})[-1]


def test_plots_are_drawn(searched, tmp_path):
    search = searched()
    files = draw_plots(search, tmp_path / "figures")
    assert {file.stem for file in files} >= {"history", "slices", "parallel_coordinates", "importances"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_two_objectives_have_a_front(searched, tmp_path):
    search = searched(objectives=["eval/score", "-eval/kl"], sampler="random")
    best = best_of_search(search)
    assert len(best["front"]) >= 1
    assert sum(line.startswith("  front:") for line in summary_lines(search, best, {})) == len(best["front"])
    assert "pareto_front" in {file.stem for file in draw_plots(search, tmp_path / "figures")}


def test_a_long_value_is_shown_by_its_beginning():
    long = f"rollout.stop={'x' * 3000}"
    study = SimpleNamespace(begun=list, signs={"eval/score": 1})
    search = SimpleNamespace(study=study, trials={}, objective="eval/score", settings=SimpleNamespace(confirm=1))
    best = {"variant": "v", "trial": 0, "score": 1.0, "seeds": [0], "front": [{"trial": 0, "differs": [long], "values": [1.0]}]}
    (front,) = [line for line in summary_lines(search, best, {}) if "front" in line]
    assert "rollout.stop=xxx" in front
    assert len(front) < 300


def test_a_plot_that_cannot_be_drawn_is_said_and_the_others_are_drawn(searched, tmp_path, monkeypatch, capsys):
    import optuna.visualization.matplotlib as drawn

    def fail(*_, **__):
        raise ValueError("too few trials")

    monkeypatch.setattr(drawn, "plot_slice", fail)
    files = {file.stem for file in draw_plots(searched(), tmp_path / "figures")}
    assert "slices" not in files
    assert "history" in files
    assert "no plot slices: ValueError: too few trials" in capsys.readouterr().err
