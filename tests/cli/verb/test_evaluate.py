from pathlib import Path

from rlx.cli.main import main
from rlx.cli.verb.evaluate import figure_lines
from rlx.training.evaluate import Evaluation
from rlx.workbench.evaluate import Scored


def test_figures_with_their_errors_then_completions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = {"score": 0.5, "reward": 0.25, "reward_standard_error": 0.0625}
    samples = [{"prompt": "1+1=", "completion": "2", "sampled": "3", "reward": 1.0}]
    scored = Scored(Evaluation(metrics, samples, 9), tmp_path / "outputs" / "evaluate" / "x", "tiny", "arithmetic", 8)
    lines = figure_lines(scored)
    facts = dict(line.split(maxsplit=1) for line in lines[: lines.index("")])
    assert facts == {
        "policy": "tiny",
        "task": "arithmetic, 8 held-out prompts",
        "score": "0.5",
        "reward": "0.25 ± 0.062 (standard error over prompts)",
        "record": str(Path("outputs/evaluate/x")),
    }
    assert lines[lines.index("") + 1 :] == ["'1+1='", "  greedy   '2'   reward 1", "  sampled  '3'"]


def test_a_wrong_key_is_named(capsys):
    assert main(["evaluate", "policy=tiny", "evaluation.num_promts=3"]) == 2
    assert "did you mean evaluation.num_prompts" in capsys.readouterr().err
