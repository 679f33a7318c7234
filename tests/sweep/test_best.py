"""best.yaml holds the winning overrides, and is an experiment of its own."""

import shlex

import yaml

from rlx.sweep.finish import experiment_of, write_best

GROUPS = {"algorithm", "loss", "task", "optimizer", "experiment"}


def test_choices_go_into_the_defaults_and_values_below():
    found = experiment_of(
        ["algorithm=hybrid", "optimizer.lr=1e-3", "loss@algorithm.dpo.loss=ipo", "task.path='a b.jsonl'", "experiment=mine"],
        GROUPS.__contains__,
    )
    assert found == {
        "defaults": [
            "mine",
            {"override /algorithm": "hybrid"},
            {"override /loss@algorithm.dpo.loss": "ipo"},
        ],
        "optimizer": {"lr": 1e-3},
        "task": {"path": "a b.jsonl"},
    }


def test_it_is_written_twice(tmp_path):
    best = {"variant": "v", "score": 0.5, "scores": [0.5], "overrides": ["algorithm=custom_dpo", "loss=ipo", "loss.beta=0.3"]}
    write_best(tmp_path, best, place=str(tmp_path), command=[], is_group=GROUPS.__contains__)
    assert (tmp_path / "best.yaml").read_text() == (tmp_path / "experiment" / "best.yaml").read_text()
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["loss"] == {"beta": 0.3}


def test_it_is_chosen_as_an_experiment_with_or_without_a_plus(tmp_path, monkeypatch, capsys):
    from rlx.cli import main

    best = {"variant": "v", "score": 0.5, "scores": [0.5], "overrides": ["algorithm=custom_dpo", "loss=ipo", "loss.beta=0.3"]}
    write_best(tmp_path, best, place=str(tmp_path), command=[], is_group=GROUPS.__contains__)
    for choice in ("experiment=best", "+experiment=best"):
        assert main.invoke(["train", "--config-dir", str(tmp_path), choice, "--cfg", "job"]) == (0, "")
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["loss"]["beta"] == 0.3
        assert shown["loss"]["_target_"].endswith("ipo")


def test_a_winner_that_is_an_experiment_of_ones_own_is_found_by_the_command_in_the_file(tmp_path, monkeypatch, capsys):
    from rlx.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my conf" / "experiment").mkdir(parents=True)
    mine = "# @package _global_\ndefaults:\n- override /algorithm: dpo\nnum_steps: 7\neval_every: 3\n"
    (tmp_path / "my conf" / "experiment" / "mine.yaml").write_text(mine)
    best = {"variant": "v", "score": 0.5, "scores": [0.5], "overrides": ["logger=[]", "experiment=mine", "num_steps=9"]}
    (tmp_path / "sweep").mkdir()
    command = ["rlx", "-m", "--config-dir", "my conf", "experiment=mine", "seed=0,1"]
    write_best(tmp_path / "sweep", best, place="sweep", command=command, is_group=(GROUPS | {"logger"}).__contains__)
    typed = shlex.split((tmp_path / "sweep" / "best.yaml").read_text().splitlines()[2].lstrip("# "))
    assert main.invoke([*typed[1:], "--cfg", "job"]) == (0, "")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["num_steps"], shown["eval_every"], shown["logger"]) == (9, 3, {})
    assert shown["algorithm"]["_target_"].endswith("Dpo")
