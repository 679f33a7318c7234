import json
import os
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf, open_dict

from rlx.config.compose import compose
from rlx.parallel import distributed
from rlx.workbench import bench
from rlx.workbench.bench import PHASES, Budget, measure

pytestmark = pytest.mark.whole

SMALL = [
    "policy=tiny_untrained",
    *(f"policy.{key}" for key in ("hidden_size=16", "intermediate_size=24", "num_layers=1", "num_heads=2")),
]
SHORT = ["evaluation.num_prompts=4", "evaluation.num_pairs=4", "logger=[]", "threads=1"]


def config(algorithm, *overrides, place):
    task = [] if any(override.startswith("task=") for override in overrides) else ["task.max_operand=20"]
    cfg = compose("train", [f"algorithm={algorithm}", *SMALL, *task, *SHORT, f"cache_dir={place}", *overrides])
    with open_dict(cfg):
        del cfg["sweep"]
    return cfg


@pytest.mark.parametrize(
    ("algorithm", "overrides", "completions"),
    [
        ("dpo", ["algorithm.pairs_per_step=6"], 12),
        ("grpo", ["algorithm.prompts_per_step=3", "algorithm.group_size=4"], 12),
        ("hybrid", [f"algorithm.{key}" for key in ("dpo.pairs_per_step=6", "grpo.prompts_per_step=3", "grpo.group_size=4")], 24),
    ],
)
def test_the_figures_fit_together(tmp_path, algorithm, overrides, completions):
    found = measure(config(algorithm, *overrides, place=tmp_path), Budget(tokens=200, seconds=0.01, warmup_steps=1))
    assert found["tokens"] >= 200
    assert found["seconds"] >= 0.01
    assert found["completions_per_second"] == pytest.approx(completions * found["steps_per_second"])
    assert found["tokens_per_second"] > found["completions_per_second"]
    assert set(found["phase_milliseconds"]) == {*PHASES, "other"}
    assert all(spent >= 0 for spent in found["phase_milliseconds"].values())
    assert sum(found["phase_milliseconds"].values()) == pytest.approx(1e3 / found["steps_per_second"])
    assert 0 < found["matmul_share"] < 1.5
    assert found["peak_memory_bytes"] > 1e7
    assert all(0 <= found[name] <= 1 for name in ("score_before", "score_at_tokens", "score_at_seconds"))


def test_a_slow_draw_is_seen_in_its_phase_and_in_no_other(tmp_path, monkeypatch):
    from rlx.algorithm.dpo import Dpo

    draw = Dpo.draw
    monkeypatch.setattr(Dpo, "draw", lambda self, lab: time.sleep(0.05) or draw(self, lab))
    found = measure(config("dpo", "algorithm.pairs_per_step=2", place=tmp_path), Budget(tokens=1, seconds=0.0, warmup_steps=1))
    assert 50 <= found["phase_milliseconds"]["draw"] < 1e3 / found["steps_per_second"]


def test_a_budget_of_tokens_out_of_reach_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("rlx.workbench.bench.PATIENCE", 0.1)
    found = measure(
        config("dpo", "algorithm.pairs_per_step=2", place=tmp_path), Budget(tokens=10**12, seconds=0.01, warmup_steps=0)
    )
    assert found["score_at_tokens"] is None
    assert found["score_at_seconds"] is not None


def test_a_profile_is_a_trace_of_the_products(tmp_path):
    trace = tmp_path / "below" / "trace.json"
    cfg = config("dpo", "algorithm.pairs_per_step=2", place=tmp_path)
    found = measure(cfg, Budget(tokens=1, seconds=0.0, warmup_steps=0, trace=str(trace)))
    assert found["trace"] == str(trace)
    assert any(event.get("name") == "aten::mm" for event in json.loads(trace.read_text())["traceEvents"])


def test_an_error_of_the_input_comes_back_as_one(tmp_path):
    cfg = config("dpo", "task=preference_file", f"task.path={tmp_path / 'nothing.jsonl'}", place=tmp_path)
    request = {"config": OmegaConf.to_container(cfg, resolve=True), "budget": {"tokens": 1, "seconds": 0, "warmup_steps": 0}}
    files = tmp_path / "request.json", tmp_path / "answer.json"
    files[0].write_text(json.dumps(request))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "rlx.workbench.bench", *map(str, files)], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(files[1].read_text())
    assert answer["exit_code"] == 2
    assert "nothing.jsonl" in answer["error"]


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (ValueError("a bug"), 1)])
def test_one_of_several_ranks_ends_at_once(monkeypatch, capsys, outcome, code):
    ended = []

    def measured(asked, answer):
        if isinstance(outcome, Exception):
            raise outcome

    monkeypatch.setattr(bench, "measure_request", measured)
    monkeypatch.setattr(distributed, "end_process", ended.append)
    bench.main("request.json", "answer.json")
    assert ended == [code]
    assert ("a bug" in capsys.readouterr().err) == (code == 1)
