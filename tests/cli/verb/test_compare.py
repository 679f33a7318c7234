import json
import subprocess
import sys

import pytest

from rlx.cli.main import main
from tests.comparison.records import normal_scores, write_run, write_sweep

pytestmark = pytest.mark.whole

SCORES = {"custom_dpo": normal_scores(0.5, 0.02, 6, seed=1), "hybrid": normal_scores(0.6, 0.02, 6, seed=2)}


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "sweep", SCORES)


def test_it_prints_and_writes(sweep, capsys):
    assert main(["compare", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "hybrid is better than custom_dpo by 0.100" in out
    assert str(sweep / "report.html") in out
    values = json.loads((sweep / "comparison.json").read_text())
    assert values["pairs"][0]["verdict"] == "better"
    assert values["command"] == ["rlx", "compare", str(sweep)]


def test_two_runs_are_held_against_each_other(sweep, capsys):
    assert main(["compare", str(sweep / "custom_dpo_0_"), str(sweep / "hybrid_0_"), "diff=true"]) == 0
    out = capsys.readouterr().out
    assert "Their metrics part" in out
    assert "algorithm._target_" in out
    assert not (sweep / "report.html").exists()
    assert main(["compare", str(sweep), "diff=true"]) == 2
    assert "holds 12" in capsys.readouterr().err


def test_columns_are_chosen(sweep, capsys):
    assert main(["compare", str(sweep), "columns=[best,p]", "page=false"]) == 0
    assert "adjusted p  " not in capsys.readouterr().out
    assert (sweep / "comparison.tex").read_text().count(r"\begin{tabular}{lr}") == 1
    assert main(["compare", str(sweep), "columns=bast"]) == 2
    assert "did you mean best" in capsys.readouterr().err


def test_out_and_write_say_where(sweep, tmp_path):
    assert main(["compare", str(sweep), f"out={tmp_path / 'my results'}", "page=false"]) == 0
    assert {path.name for path in (tmp_path / "my results").iterdir()} >= {"comparison.json", "comparison.tex"}
    assert main(["compare", str(sweep), "write=false"]) == 0
    assert not (sweep / "comparison.json").exists()


@pytest.mark.parametrize(
    ("condition", "code"),
    [("hybrid < custom_dpo", 0), ("custom_dpo < hybrid", 1), ("hybrid > custom_dpo", 1)],
)
def test_fail_if_is_the_exit_code(sweep, capsys, condition, code):
    assert main(["compare", str(sweep), f"fail_if={condition}", "write=false"]) == code
    assert ("holds: " in capsys.readouterr().err) is (code == 1)


def test_fail_if_refuses_few_seeds(tmp_path, capsys):
    write_sweep(tmp_path, {name: scores[:3] for name, scores in SCORES.items()})
    assert main(["compare", str(tmp_path), "fail_if=hybrid < custom_dpo"]) == 2
    assert "3 seeds carry no verdict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["baselin=custom_dpo"], "did you mean baseline"),
        (["baseline=hybrd"], "did you mean hybrid"),
        (["by=optimizer.lrr"], "did you mean optimizer.lr"),
        (["failed=drop"], "worst, exclude"),
        (["margin=small"], "margin=small: it must be a number"),
        (["margin=-1"], "it must be a finite number above 0"),
        (["page=maybe"], "page=maybe: it must be true or false"),
        (["where=seed>99"], "none of them matches"),
    ],
)
def test_a_wrong_word_is_one_message_and_exit_code_2(sweep, capsys, arguments, message):
    assert main(["compare", str(sweep), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_what_cannot_be_compared_is_exit_code_2(tmp_path, capsys):
    write_sweep(tmp_path, {"custom_dpo": [0.5], "hybrid": [0.6]})
    assert main(["compare", str(tmp_path)]) == 2
    assert "run more seeds: rlx -m algorithm=custom_dpo 'seed=range(0,10)'" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "allow=[single]", "write=false"]) == 0


def test_several_places_and_patterns(tmp_path, capsys):
    write_sweep(tmp_path / "a", {"custom_dpo": SCORES["custom_dpo"]})
    write_sweep(tmp_path / "b", {"hybrid": SCORES["hybrid"]})
    assert main(["compare", str(tmp_path / "a"), f"{tmp_path}/b/hybrid_*", "write=false"]) == 0
    assert "2 variants, 12 runs" in capsys.readouterr().out


def test_it_is_no_sweep(sweep, capsys):
    assert main(["compare", "-m", str(sweep)]) == 2
    assert "leave out -m" in capsys.readouterr().err


def test_a_hundred_runs_are_quick_and_need_no_torch(tmp_path):
    for place in range(10):
        for seed in range(10):
            score = 0.5 + place / 50 + seed / 500
            write_run(tmp_path / f"{place}_{seed}", algorithm="hybrid", seed=seed, algorithm__w=place, score=score)
    code = (
        "import sys, time; from rlx.cli.main import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules); assert time.process_time() < 6;"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, "compare", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100 runs" in done.stdout
