"""resume=RUN and rerun=RUN: the run's own config, as data, and what may be given with it."""

import json

import pytest
from omegaconf import OmegaConf

from rlx.cli.verb.train import narrow
from rlx.config.check import plain_config
from rlx.config.compose import Composed, compose
from rlx.errors import ConfigError, DataError

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def recorded_values():
    return plain_config(compose("train", ["seed=7", "num_steps=40", "loss.beta=0.3", "logger=[]"]))


@pytest.fixture
def run(tmp_path, recorded_values):
    """A directory with the record of a run; `write(**changes)` changes its config."""

    def write(**changes):
        config = json.loads(json.dumps(recorded_values))
        for key, value in changes.items():
            config[key] = value
        record = {
            **dict.fromkeys(("id", "variant", "task", "config_hash", "started"), "x"),
            "schema_version": 1, "status": "interrupted", "verb": "train", "algorithm": "custom_dpo", "command": ["rlx"],
            "seed": 7,
            "threads": 1, "config": config, "overrides": [], "sources": [], "provenance": {},
        }  # fmt: skip
        (tmp_path / "run.json").write_text(json.dumps(record))
        return tmp_path

    return write


def resumed(run, *overrides, verb="resume", allowed=(), directory=None, multirun=False):
    overrides = (f"{verb}={run}", *overrides)
    composed = Composed(
        verb="train", config=compose("train", overrides), choices={"algorithm": "custom_dpo"}, overrides=overrides,
        allowed=frozenset(allowed), folders=(), command=("rlx",), directory=directory, is_multirun=multirun,
    )  # fmt: skip
    found = narrow(composed)
    return found.config, found.algorithm, found.directory


def test_the_runs_own_config(run):
    cfg, algorithm, directory = resumed(run())
    assert (cfg.seed, cfg.num_steps, cfg.loss.beta, dict(cfg.logger)) == (7, 40, 0.3, {})
    assert (algorithm, directory) == ("custom_dpo", run())
    assert cfg.resume == str(run())


def test_keys_that_a_record_of_before_lacks_have_the_values_of_before(run, recorded_values, monkeypatch):
    monkeypatch.delitem(recorded_values, "activation_checkpointing")
    cfg, _, _ = resumed(run())
    assert cfg.activation_checkpointing is False


def test_what_cannot_change_the_past_may_be_given(run):
    cfg, _, _ = resumed(
        run(), "micro_batch=4", "num_steps=80", "checkpoint.every=5", "logger=[tensorboard]", "allow_changed=[code]"
    )
    assert (cfg.micro_batch, cfg.num_steps, cfg.checkpoint.every, list(cfg.logger)) == (4, 80, 5, ["tensorboard"])
    assert cfg.checkpoint.keep_last == 1
    assert list(cfg.allow_changed) == ["code"]


def test_a_key_of_a_group_leaves_the_choice_of_the_record(run):
    cfg, _, _ = resumed(run(parallel={"mode": "sharded", "timeout": 60}), "parallel.timeout=90")
    assert dict(cfg.parallel) == {"mode": "sharded", "timeout": 90}
    cfg, _, _ = resumed(run(parallel={"mode": "sharded", "timeout": 60}), "parallel=replicated", "parallel.timeout=90")
    assert dict(cfg.parallel) == {"mode": "replicated", "timeout": 90}
    loggers = {"kept": {"_target_": "rlx.record.logger.wandb.WandbLogger"}, "tensorboard": {"directory": "there"}}
    cfg, _, _ = resumed(run(logger=loggers), "logger.tensorboard.directory=here")
    assert cfg.logger == {**loggers, "tensorboard": {"directory": "here"}}


@pytest.mark.parametrize(
    "override",
    ["seed=8", "loss.beta=0.1", "algorithm=dpo", "loss=ipo", "eval_every=3", "task.max_operand=9", "optimizer.lr=1", "threads=1"],
)
def test_the_rest_may_not(run, override):
    with pytest.raises(ConfigError, match="takes the run's own config"):
        resumed(run(), override)


def test_longer_only_under_a_schedule_without_a_horizon(run):
    linear = plain_config(compose("train", ["scheduler=linear"]))["scheduler"]
    with pytest.raises(ConfigError, match="planned for 40 steps"):
        resumed(run(scheduler=linear), "num_steps=80")
    assert resumed(run(scheduler=linear), "num_steps=40")[0].num_steps == 40


def test_a_rerun_has_a_directory_of_its_own(run):
    cfg, _, directory = resumed(run(), "output_dir=elsewhere", verb="rerun")
    assert directory is None
    assert (cfg.output_dir, cfg.rerun, cfg.resume, cfg.seed) == ("elsewhere", str(run()), None, 7)
    with pytest.raises(ConfigError, match="takes the run's own config"):
        resumed(run(), "num_steps=3", verb="rerun")


@pytest.mark.parametrize("target", ["os.system", "builtins.exec", "torch.load", "rlx.training.run.train"])
def test_a_record_is_data(run, recorded_values, target):
    task = {**recorded_values["task"], "_target_": target}
    with pytest.raises(ConfigError, match="the record names"):
        resumed(run(task=task))


def test_a_class_of_ones_own_is_named_again(run, recorded_values, lab):
    loss = {"_target_": f"{lab}.MyLoss", "beta": 0.1, "modifiers": {}, "gamma": 2.0}
    with pytest.raises(ConfigError, match=rf"not part of rlx; .*: rlx train resume={run()} loss={lab}\.MyLoss"):
        resumed(run(loss=loss))
    cfg, _, _ = resumed(run(loss=loss), f"loss={lab}.MyLoss", allowed=[f"{lab}.MyLoss"])
    assert cfg.loss.gamma == 2.0


def test_not_in_a_sweep_and_not_both(run):
    with pytest.raises(ConfigError, match="cannot be swept"):
        resumed(run(), multirun=True)
    with pytest.raises(ConfigError, match="one of them"):
        resumed(run(), f"rerun={run()}")


def test_no_run(tmp_path):
    with pytest.raises(DataError, match="no run here"):
        resumed(tmp_path)


def test_a_place_given_with_a_resume_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="its own directory"):
        resumed(run(), directory=tmp_path)


def test_the_record_is_not_resolved_again(run):
    cfg, _, _ = resumed(run(device="auto"))
    assert OmegaConf.to_container(cfg, resolve=False)["loss"]["beta"] == 0.3
