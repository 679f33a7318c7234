"""What is refused between composing a config and building from it."""

import pytest
from omegaconf import OmegaConf, open_dict

from rlx.config.check import check_config, plain_config, require_resolvable
from rlx.config.compose import compose
from rlx.errors import ConfigError


@pytest.fixture(scope="module")
def composed():
    return compose("train")


@pytest.fixture
def cfg(composed):
    return composed.copy()


def put(cfg, key, value):
    with open_dict(cfg):
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return cfg


def test_the_default_config_is_right(cfg):
    check_config(cfg)


def test_nothing_is_built(cfg, monkeypatch):
    from rlx.policy import tiny

    monkeypatch.setattr(tiny.load_tiny, "__call__", None, raising=False)
    check_config(cfg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("colour", "red", "colour is not a key of rlx train"),
        ("evaluation.num_promts", 3, "did you mean evaluation.num_prompts"),
        ("loss.betta", 0.1, "loss.betta is not a key of dpo; did you mean loss.beta"),
        ("loss.beta", "x", "loss.beta=x: it must be a number"),
        ("loss.beta", None, "loss.beta=null: it must be a number"),
        ("loss.beta", "???", "loss.beta has no value"),
        ("loss.beta", True, "loss.beta=true: it must be a number"),
        ("loss._target_", "rlx.task.arithmetic.Arithmetic", "loss: rlx.task.arithmetic.Arithmetic is not a valid loss"),
        ("loss._target_", "rlx.loss.preference.margin.Dpoo", "did you mean dpo"),
        ("loss.beta", -1, "loss.beta=-1: it must be a finite number above 0; beta scales the log-ratios"),
        ("loss._target_", "os.system", "loss._target_ names os.system"),
        ("loss", None, "algorithm reads a loss, but none is chosen"),
        ("loss", {"beta": 1}, "loss is not a node with a _target_"),
        ("algorithm.regularizer", {"weight": 1}, "it is chosen by algorithm/regularizer=NAME, which gives it a _target_"),
        ("policy.max_length", False, "policy.max_length=false: it must be a whole number or null"),
        ("algorithm.pairs_per_step", 1.5, "it must be a whole number"),
        ("algorithm.sft_loss_weight", float("nan"), "algorithm.sft_loss_weight=nan: it must be a finite number at least 0"),
        ("loss.beta", float("inf"), "loss.beta=inf: it must be a finite number above 0"),
        ("optimizer.lr", float("nan"), "optimizer.lr=nan: it must be a finite number at least 0"),
        ("optimizer.betas", [0.9, float("nan")], "optimizer.betas=[0.9, nan]: it must be a list, each a finite number"),
        ("max_seconds", float("nan"), "max_seconds=nan: it must be a finite number above 0 or null"),
        ("export.dtype", "float61", "export.dtype=float61: it must be one of float32, float16, bfloat16; did you mean float16?"),
        ("allow_changed", ["dat"], "allow_changed=['dat']: it must be a list, each one of data, code; did you mean data?"),
        ("output_dir", " ", "output_dir= : it must be a text that is not empty"),
        ("algorithm.loss.beta", 1, None),
        ("algorithm.regularizer", {"_target_": "rlx.task.arithmetic.Arithmetic"}, "is not"),
        ("optimizer.betas", [0.9], "optimizer.betas"),
        ("optimizer.lrr", 0.9, "did you mean optimizer.lr"),
        ("task.max_operand", {"_target_": "rlx.policy.tiny.load_tiny"}, "is not a whole number"),
        ("logger.tensorboard.directry", "x", "did you mean logger.tensorboard.directory"),
        ("logger.odd", {"_target_": "rlx.policy.tiny.load_tiny"}, "is not a valid logger"),
        ("scheduler.warmup_steps", "${seeed}", "scheduler.warmup_steps"),
        ("policy._target_", "rlx.policy.tiny.build_nothing", "has no build_nothing"),
    ],
)
def test_refused(cfg, key, value, message):
    if message is None:
        return
    with pytest.raises(ConfigError) as caught:
        check_config(put(cfg, key, value))
    assert message in str(caught.value)


def test_a_missing_key_of_a_class(cfg):
    with open_dict(cfg):
        del cfg.algorithm["pairs_per_step"]
    with pytest.raises(
        ConfigError, match=r"algorithm\.pairs_per_step has no value, and rlx\.algorithm\.custom_dpo\.\w+ needs one"
    ):
        check_config(cfg)


def test_a_class_of_ones_own_only_where_it_was_named(cfg, lab):
    put(cfg, "loss", {"_target_": f"{lab}.MyLoss", "beta": 0.1, "modifiers": {}, "gamma": 2.0})
    with pytest.raises(ConfigError, match=r"may not call"):
        check_config(cfg)
    check_config(cfg, allowed=[f"{lab}.MyLoss"])


def test_plain_names_the_key_of_an_interpolation_that_leads_nowhere():
    with pytest.raises(ConfigError, match=r"^a"):
        plain_config(OmegaConf.create({"a": "${b}"}))


@pytest.mark.parametrize("text", ["${oc.env:NOT_SET}", "${oc.env:NOT_SET}/pairs", "${nope}", "${.nope}"])
def test_the_key_that_holds_an_interpolation_is_named_and_not_one_that_reads_it(monkeypatch, text):
    monkeypatch.delenv("NOT_SET", raising=False)
    cfg = OmegaConf.create({"task": {"name": "${.path}", "path": text}, "seed": 1})
    for refused in (plain_config, require_resolvable):
        with pytest.raises(ConfigError, match=r"^task\.path: (the environment variable NOT_SET|there is no key nope)"):
            refused(cfg)
