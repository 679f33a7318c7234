"""The arithmetic of the comparison with TRL; TRL itself is not needed here."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.peers import study
from tests.peers.benchmark import compared, measured, parsed, table, workloads
from tests.peers.rounds import Worker
from tests.peers.workload import SIZES, Workload, even_words, model, pairs, with_held_out_last, word_tokenizer, write

pytestmark = pytest.mark.whole

SMALL = Workload("dpo", "1M", 4, 6, 8, 2, 3, 3, 1)


def test_a_ratio_is_that_of_two_rounds_that_follow_each_other():
    ours = [{"seconds": 2.0, "peak": 10}, {"seconds": 4.0, "peak": 30}, {"seconds": 1.0, "peak": 20}]
    theirs = [{"seconds": 6.0, "peak": 50}, {"seconds": 8.0, "peak": 40}, {"seconds": 7.0, "peak": 45}]
    (row,) = compared(SMALL, {"rlx": ours, "trl": theirs})
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (3.0, 2.0, 7.0)
    assert (row["ours"], row["theirs"]) == (24 / 2.0, 24 / 7.0)
    assert (row["our_peak"], row["their_peak"]) == (30, 50)
    assert "3.00 [2.00, 7.00]" in table([row])[-1]


def test_with_an_adapter_both_recompute_activations_or_neither_does():
    rounds = {side: [{"seconds": seconds, "peak": 10}] for side, seconds in (("rlx", 1.0), ("rlx_recomputing", 2.0))}
    rounds |= {side: [{"seconds": seconds, "peak": 20}] for side, seconds in (("trl", 3.0), ("trl_default", 8.0))}
    rows = {row["against"]: row for row in compared(replace(SMALL, rank=16), rounds)}
    assert (rows["trl"]["ratio"], rows["trl_default"]["ratio"]) == (3.0, 4.0)
    assert "adapter of rank 16" in rows["trl"]["workload"]
    assert "as rlx recomputes" in table([rows["trl_default"]])[-1]


def test_the_command_line_changes_shapes():
    (workload,) = workloads(parsed(["grpo-1M", "--rounds", "7", "--prompt", "33", "--batch", "16"]))
    assert (workload.method, workload.rounds, workload.prompt_words, workload.batch, workload.group_size) == (
        "grpo",
        8,
        33,
        16,
        8,
    )
    assert len(list(workloads(parsed([])))) >= 4


@pytest.mark.parametrize("arguments", [["dpo-2M"], ["--rounds", "0"], ["--size", "3M"]])
def test_a_wrong_command_line_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(arguments)
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "millions"), [("1M", 1), ("20M", 20)])
def test_the_models_have_the_size_of_their_name(name, millions):
    size = SIZES[name]
    layers = size.num_layers * (4 * size.hidden_size**2 + 3 * size.hidden_size * size.intermediate_size)
    assert layers + size.vocabulary * size.hidden_size == pytest.approx(millions * 1e6, rel=0.05)


def test_both_sides_learn_from_the_same_rows(tmp_path):
    import rlx

    write(SMALL, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    task = rlx.load("task", "preference_file", path=str(tmp_path / "data.jsonl"), held_out=1e-12)
    assert [pair.prompt for pair in task.pairs()] == [line["prompt"] for line in lines[: SMALL.pairs]]
    assert Counter(line["prompt"] for line in with_held_out_last(pairs(SMALL, 1021))) == Counter(line["prompt"] for line in lines)


def test_a_study_is_the_same_jobs_on_both_sides(tmp_path):
    ours, theirs = (command(tmp_path, steps=3, seeds=2) for command in (study.rlx_command, study.trl_command))
    assert {"num_steps=3", "seed=range(0,2)", f"algorithm.dpo_weight={study.WEIGHTS}"} <= set(ours)
    assert {"+steps=3", "+seed=range(0,2)", f"+weight={study.WEIGHTS}"} <= set(theirs)
    assert study.workload("dpo", 3).pairs == 3 * study.PAIRS
    assert study.workload("grpo", 3).pairs == 3 * study.COMPLETIONS // study.GROUP
    said = study.line({"rlx": [10.0, 20.0], "trl": [50.0, 60.0]}, jobs=10, steps=3)
    assert said == "10 jobs of 3 steps: rlx 15 s, TRL 55 s, 4.00 [3.00, 5.00] times as fast"


def test_a_word_is_a_token_and_comes_back():
    tokenizer = word_tokenizer(20)
    tokens = tokenizer("w3 w0 w16")["input_ids"]
    assert len(tokens) == 3
    assert tokenizer.decode(tokens) == "w3 w0 w16"
    assert model(SIZES["1M"], tokenizer, seed=0).config.eos_token_id == tokenizer.eos_token_id


def test_the_reward_is_the_share_of_even_words():
    assert even_words("w1", " w2 w3 w14 w7") == 0.5
    assert even_words("w1", "") == 0.0


def test_a_side_that_fails_says_why(tmp_path):
    worker = Worker("rlx", tmp_path, threads=1, log=tmp_path / "log")
    with pytest.raises(SystemExit, match="workload"):
        worker.round()
    worker.close()


@pytest.mark.parametrize("rank", [0, 2])
def test_rlx_takes_its_rounds(tmp_path, monkeypatch, rank):
    side = "rlx_recomputing" if rank else "rlx"
    monkeypatch.setattr("tests.peers.benchmark.AGAINST", {"dpo": {side: side}, "adapter": {side: side}})
    write(replace(SMALL, rank=rank), tmp_path)
    rounds = measured(replace(SMALL, rank=rank), tmp_path, bfloat16=False)[side]
    assert len(rounds) == SMALL.rounds - 1
    assert all(each["seconds"] > 0 and each["peak"] > 1e8 for each in rounds)
