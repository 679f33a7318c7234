"""A chosen loss exists and is read."""

import pytest
from omegaconf import OmegaConf

from rlx.config.compose import check_chosen, check_loss, nested_losses, read_paths
from rlx.errors import ConfigError

HYBRID = {
    "dpo": {"algorithm": {"loss": "${..loss}"}, "loss": {"beta": 0.1}, "weight": 0.5},
    "grpo": {"algorithm": {"loss": "${..loss}"}, "loss": {"beta": 0.1}, "weight": 0.5},
}


def check(algorithm, loss, *, chosen, name="custom_dpo"):
    cfg = OmegaConf.create({"algorithm": algorithm, "loss": loss})
    check_loss(cfg, choices={"algorithm": name, "loss": chosen}, options=["dpo", "ipo", "hinge"])


def test_a_loss_that_is_read():
    check({"loss": "${..loss}"}, {"beta": 0.1}, chosen="ipo")


def test_a_single_value_of_the_loss_that_is_read():
    check({"beta": "${..loss.beta}"}, {"beta": 0.1}, chosen="ipo")
    check({"beta": "${loss.beta}"}, {"beta": 0.1}, chosen="ipo")


def test_a_mistyped_loss():
    with pytest.raises(ConfigError, match="there is no loss ippo; did you mean ipo"):
        check({"loss": "${..loss}"}, None, chosen="ippo")


def test_a_mistyped_loss_before_composing():
    for override in ("loss=ippo", "loss=dpo,ippo"):
        with pytest.raises(ConfigError, match="there is no loss ippo; did you mean ipo"):
            check_chosen(["seed=1", override], ["dpo", "ipo"])
    check_chosen(["loss=dpo,ipo", "loss.beta=1", "loss=my_lab.Mine", "loss=choice(dpo,ippo)", "task=ippo"], ["dpo", "ipo"])


def test_no_loss_of_the_algorithms_name_is_fine_where_none_is_read():
    check({}, None, chosen="sft", name="sft")


def test_a_loss_that_nobody_reads_names_the_nested_ones():
    with pytest.raises(
        ConfigError, match=r"nobody reads loss=ipo under algorithm=hybrid; .*algorithm\.dpo\.loss, algorithm\.grpo\.loss"
    ):
        check(HYBRID, {"beta": 0.1}, chosen="ipo", name="hybrid")


def test_a_term_of_a_mixture_reads_its_own_loss_and_not_the_top_one():
    assert set(read_paths({"algorithm": HYBRID})) == {"algorithm.dpo.loss", "algorithm.grpo.loss"}
    assert list(nested_losses(HYBRID, "algorithm")) == ["algorithm.dpo.loss", "algorithm.grpo.loss"]


def test_a_loss_that_only_bears_the_name_of_the_algorithm_is_dropped_when_nobody_reads_it():
    for overrides, dropped in (([], True), (["loss.beta=0.2"], False), (["loss=mixture"], False)):
        cfg = OmegaConf.create({"algorithm": {"terms": {}}, "loss": {"beta": 0.1}})
        arguments = {"choices": {"algorithm": "mixture", "loss": "mixture"}, "options": ["mixture"], "overrides": overrides}
        if dropped:
            check_loss(cfg, **arguments)
            assert cfg.loss is None
        else:
            with pytest.raises(ConfigError, match="nobody reads loss=mixture"):
                check_loss(cfg, **arguments)
