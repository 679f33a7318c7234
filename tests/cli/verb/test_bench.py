"""rlx bench from the outside; what it measures is replaced, but in one test."""

import json

import pytest

from rlx.cli.main import main
from rlx.cli.verb import bench
from rlx.workbench.bench import PHASES

pytestmark = pytest.mark.whole

SMALL = [
    "policy=tiny_untrained",
    *(f"policy.{key}" for key in ("hidden_size=16", "intermediate_size=24", "num_layers=1", "num_heads=2")),
]
QUICK = ["task.max_operand=20", "num_prompts=4", "tokens=1", "seconds=0", "warmup_steps=0", "threads=1"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """The (config, seed, trace) of every measurement that is asked for; each is answered with figures."""
    found = []
    figures = ("tokens_per_second", "completions_per_second", "steps_per_second", "peak_memory_bytes", "matmul_share", "seconds")
    scores = ("score_before", "score_at_tokens", "score_at_seconds", "evaluation_seconds", "steps")

    def measured_round(config, cfg, number, trace):
        found.append((config, cfg.seed + number, trace))
        return {
            **dict.fromkeys((*figures, *scores), 1.0 + number),
            "devices": 1,
            "phase_milliseconds": dict.fromkeys((*PHASES, "other"), 2.0),
        }

    monkeypatch.setattr(bench, "measured_round", measured_round)
    return found


def test_draws_ahead_are_measured_beside_those_in_their_step(asked, capfd):
    assert main(["bench", "algorithm=grpo", "rounds=1", "rollout.ahead=0,1"]) == 0
    assert [config["rollout"]["ahead"] for config, *_ in asked] == [0, 1]
    assert "grpo, ahead by 1" in capfd.readouterr().out
    assert main(["bench", "algorithm=grpo", "rollout.ahead=0,2"]) == 2


def test_algorithms_take_turns_on_equal_terms(asked, place, capfd):
    assert main(["bench", "algorithm=dpo,grpo", "rounds=2", "seed=5", "optimizer.lr=0.5", "num_prompts=7"]) == 0
    assert [(config["algorithm"]["_target_"].rpartition(".")[2], seed) for config, seed, _ in asked] == [
        ("Dpo", 5),
        ("CustomGrpo", 5),
        ("Dpo", 6),
        ("CustomGrpo", 6),
    ]
    assert [config["loss"]["_target_"].rpartition(".")[2] for config, *_ in asked[:2]] == ["dpo", "clipped"]
    for config, *_ in asked:
        assert (config["optimizer"]["lr"], config["evaluation"]["num_prompts"], config["logger"]) == (0.5, 7, {})
    assert (place / "outputs/bench/bench.png").is_file()
    written = json.loads((place / "outputs/bench/bench.json").read_text())
    assert written["algorithms"]["grpo"]["summary"]["steps"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    assert "1.5 [1, 2]" in capfd.readouterr().out


def test_json_is_all_that_is_printed(asked, capfd):
    assert main(["bench", "algorithm=dpo", "json=true", "rounds=1", "plot=false"]) == 0
    printed = capfd.readouterr().out
    assert list(json.loads(printed)["algorithms"]) == ["dpo"]


def test_a_profile_is_taken_once_an_algorithm(asked):
    assert main(["bench", "algorithm=dpo,grpo", "rounds=2", "profile=true", "plot=false", "out=here"]) == 0
    assert [trace for *_, trace in asked] == ["here/trace_dpo.json", "here/trace_grpo.json", None, None]


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(asked, capfd):
    assert main(["bench", "rounds=1", "out=/dev/null/x"]) == 2
    assert "choose another place with out=DIR" in capfd.readouterr().err
    assert asked == []


def test_an_algorithm_of_ones_own(asked, place):
    (place / "my_bench_lab.py").write_text(
        "from dataclasses import dataclass\nfrom rlx.algorithm.sft import Sft\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Sft):\n    pairs_per_step: int = 3\n"
    )
    assert main(["bench", "algorithm=sft,my_bench_lab.Mine", "rounds=1", "plot=false"]) == 0
    assert asked[1][0]["algorithm"]["_target_"] == "my_bench_lab.Mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["algorithm=dpo,gprо"], "gpr"),
        (["algorithm=dpo,grop"], "grpo"),
        (["algorithm=dpo,dpo"], "twice"),
        (["algorithm=dpo,"], "missing"),
        (["algorithm=dpo", "rounds=0"], "rounds"),
        (["algorithm=dpo", "secnds=3"], "seconds"),
        (["algorithm=dpo,grpo", "loss=ipo"], "loss"),
        (["algorithm=dpo", "loss.betta=3"], "beta"),
        (["-m", "algorithm=dpo,grpo"], "leave out -m"),
    ],
)
def test_bad_input_is_said_before_anything_is_measured(asked, arguments, says, capfd):
    assert main(["bench", *arguments]) == 2
    message = capfd.readouterr().err
    assert says in message
    assert "Traceback" not in message
    assert not asked


def test_one_algorithm_is_really_measured_in_a_process_of_its_own(place, capfd):
    assert main(["bench", "algorithm=sft", "rounds=1", "plot=false", "algorithm.pairs_per_step=2", *SMALL, *QUICK]) == 0
    shown = capfd.readouterr().out
    assert "tokens/s" in shown
    found = json.loads((place / "outputs/bench/bench.json").read_text())["algorithms"]["sft"]["rounds"][0]
    assert found["tokens_per_second"] > 0


def test_what_the_process_says_is_passed_on(place, capfd):
    arguments = ["algorithm=dpo", "task=preference_file", "task.path=nothing.jsonl", *SMALL, "rounds=1", "threads=1"]
    assert main(["bench", *arguments]) == 2
    assert "nothing.jsonl" in capfd.readouterr().err
