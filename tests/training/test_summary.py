import re

import pytest

from rlx.training.gradients import micro_batches
from rlx.training.summary import convergence_step, hyperparameters_text, left_out, next_commands, peak_memory, rows_text


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        ([(0, 0.5), (50, 0.7), (100, 0.705), (150, 0.71)], 100),
        ([(0, 0.9), (50, 0.2)], 0),
        ([(0, -2.0), (50, -1.005), (100, -1.0)], 50),
        ([], None),
    ],
)
def test_the_step_from_which_the_score_is_within_one_percent_of_the_best(scores, step):
    lines = [{"step": at, "eval/score": score} for at, score in scores] + [{"step": 7, "train/loss": 1.0}]
    assert convergence_step(lines) == step


def test_settings_show_plain_hyperparameters():
    node = {"_target_": "x.Y", "beta": 0.1, "loss": {"beta": 3}, "modifiers": {}}
    from omegaconf import OmegaConf

    assert hyperparameters_text(OmegaConf.create(node), skip=("loss",)) == "beta=0.1"
    assert hyperparameters_text(OmegaConf.create({"limit": None, "clip": True})) == "limit=null, clip=true"
    assert hyperparameters_text(OmegaConf.create({"_target_": "x.Y"})) == "no hyperparameters"
    parts = {"dpo": {"_target_": "x.Dpo", "loss": {"_target_": "x.ipo", "beta": 1}}, "advantage": {"_target_": "my_lab.ranked"}}
    assert hyperparameters_text(OmegaConf.create(parts)) == "dpo=Dpo, dpo.loss=ipo, advantage=ranked"


def test_peak_memory_is_in_bytes():
    assert 2**24 < peak_memory() < 2**45


def test_the_commands_to_try_next_can_be_pasted_into_a_shell(monkeypatch, tmp_path):
    import shlex
    from types import SimpleNamespace

    overrides = ["algorithm=dpo", "seed=3", "task.path='a b.jsonl'", "resume=x"]
    config = {"output_dir": "my runs", "logger": {"tensorboard": {}}}
    command = ["rlx", "--config-dir", "my conf", "hydra.searchpath=[file:///x]", *overrides]
    record = SimpleNamespace(overrides=overrides, config=config, command=command, resumed=())
    sweep, runs, board = (shlex.split(command) for command in next_commands(record))
    assert sweep[:5] == ["rlx", "-m", "--config-dir", "my conf", "hydra.searchpath=[file:///x]"]
    assert sweep[5:] == ["algorithm=dpo", "task.path='a b.jsonl'", "seed=range(0,5)"]
    assert runs == ["rlx", "runs", "my runs", "sort=-score"]
    assert board == ["tensorboard", "--logdir", "my runs"]
    record = SimpleNamespace(overrides=[], config={"output_dir": "outputs", "logger": {}}, command=["rlx"], resumed=())
    assert len(next_commands(record)) == 2
    config = {"output_dir": "outputs", "logger": {}, "num_steps": 80}
    record = SimpleNamespace(overrides=["num_steps=40"], config=config, command=["rlx"], resumed=[{"step": 40}])
    assert next_commands(record)[0] == "rlx -m num_steps=80 'seed=range(0,5)'"


def test_pairs_that_were_dropped_are_counted_on_both_sides_of_the_split():
    from types import SimpleNamespace

    class Side(SimpleNamespace):
        def __len__(self):
            return self.kept

    learn = Side(kept=57, dropped={"empty": 1, "too_long": 2}, truncated=3)
    held_out = Side(kept=4, dropped={"too_long": 1, "equal": 1}, truncated=1)
    whole = Side(kept=9, dropped={}, truncated=0)
    assert left_out(learn, held_out) == (
        "; dropped: 1 empty, 3 too_long, 1 equal, leaving 57 and 4; 4 prompts lost their beginning"
    )
    assert left_out(whole, held_out).startswith("; dropped: 1 too_long, 1 equal, leaving 9 and 4")
    assert left_out(whole, whole) == ""


def test_the_tokens_at_once_that_are_shown_are_those_that_an_update_is_cut_into():
    shown = int(re.sub(r"\D", "", rows_text(None)))
    assert max(100 * (part.stop - part.start) for part in micro_batches([100] * 200, None)) == shown // 100 * 100
    assert [rows_text(rows) for rows in (1, 8, "auto")] == ["1 row", "8 rows", "as many rows as fit"]
