"""A class is a config."""

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from rlx.config.check import check_config
from rlx.config.compose import compose
from rlx.config.sources import served
from rlx.errors import ConfigError


def test_an_algorithm_out_of_its_fields(lab):
    cfg = compose("train", [f"algorithm={lab}.Bare", "algorithm.extra=0.1", "algorithm.size=3"])
    node = OmegaConf.to_container(cfg.algorithm, resolve=False)
    assert node == {
        "_target_": f"{lab}.Bare",  "extra": 0.1, "size": 3, "updates_per_batch": 1, "max_grad_norm": 1.0,
    }  # fmt: skip
    assert cfg.loss.beta == 0.3  # the default of its field becomes the run's loss
    check_config(cfg, allowed=served)


def test_a_value_that_is_missing_stays_missing(lab):
    cfg = compose("train", [f"algorithm={lab}.Bare"])
    with pytest.raises(ConfigError, match=r"algorithm\.size has no value"):
        check_config(cfg, allowed=served)


def test_another_loss_replaces_that_of_the_class(lab):
    cfg = compose("train", [f"algorithm={lab}.Bare", "loss=ipo"])
    assert cfg.loss._target_.endswith(".ipo")


def test_a_wrong_key_is_refused(lab):
    with pytest.raises(ConfigCompositionException, match="extr"):
        compose("train", [f"algorithm={lab}.Bare", "algorithm.extr=0.1"])


def test_a_wrong_type_is_refused(lab):
    cfg = compose("train", [f"algorithm={lab}.Bare", "algorithm.size=1.5"])
    with pytest.raises(ConfigError, match=r"algorithm\.size=1\.5: it must be a whole number"):
        check_config(cfg, allowed=served)


def test_a_loss_derived_from_one_of_rlx_takes_the_values_of_its_yaml(lab):
    cfg = compose("train", [f"loss={lab}.MyLoss", "loss.gamma=2.5"])
    assert (cfg.loss.beta, cfg.loss.gamma) == (0.1, 2.5)
    check_config(cfg, allowed=served)


def test_an_algorithm_derived_from_one_of_rlx_takes_its_yaml_its_choices_and_its_loss(tmp_path, monkeypatch):
    (tmp_path / "derived_lab.py").write_text(
        "from dataclasses import dataclass\n"
        "from rlx.algorithm.custom_dpo import CustomDpo\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(CustomDpo):\n"
        "    extra: int = 7\n"
        "    sft_loss_weight: float = 0.75\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    usual = compose("train")
    cfg = compose("train", ["algorithm=derived_lab.Mine", "algorithm/regularizer=entropy"])
    assert (cfg.algorithm.extra, cfg.algorithm.sft_loss_weight) == (7, 0.75)
    assert cfg.algorithm.pairs_per_step == usual.algorithm.pairs_per_step
    assert cfg.algorithm.regularizer._target_.endswith(".entropy")
    assert cfg.loss == usual.loss
    check_config(cfg, allowed=served)


def test_an_optimizer_out_of_its_signature():
    cfg = compose("train", ["optimizer=torch.optim.SGD", "optimizer.momentum=0.9"])
    assert (cfg.optimizer._partial_, cfg.optimizer.momentum, cfg.optimizer.lr) == (True, 0.9, 0.001)
    assert "params" not in cfg.optimizer
    check_config(cfg)


def test_a_function_that_returns_a_policy(lab):
    cfg = compose("train", [f"policy={lab}.my_policy", "policy.path=here"])
    assert OmegaConf.to_container(cfg.policy) == {"_target_": f"{lab}.my_policy", "path": "here", "depth": 2}
    check_config(cfg, allowed=served)


@pytest.mark.parametrize(
    "choice", ["algorithm={}.MyLoss", "algorithm={}.NotOne", "loss={}.Bare2", "policy={}.returns_nothing", "task={}.Bare"]
)
def test_only_classes_that_fit_the_group(lab, choice):
    with pytest.raises(ConfigError, match=lab):
        compose("train", [choice.format(lab)])


def test_a_class_whose_decorator_was_forgotten(tmp_path, monkeypatch):
    (tmp_path / "forgetful_lab.py").write_text(
        "from rlx.loss.preference.margin import dpo\nclass Mine(dpo):\n    gamma: float = 1.0\nclass Same(dpo):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"gamma would be ignored.*@dataclass"):
        compose("train", ["loss=forgetful_lab.Mine"])
    assert compose("train", ["loss=forgetful_lab.Same"]).loss.beta == 0.1


def test_a_default_that_no_yaml_can_hold(tmp_path, monkeypatch):
    (tmp_path / "odd_lab.py").write_text(
        "from rlx.policy.base import Policy\ndef load(thing=object()) -> Policy:\n    raise RuntimeError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="is not valid in YAML"):
        compose("train", ["policy=odd_lab.load"])


def test_another_part_of_ones_own_replaces_what_the_ancestor_chooses(tmp_path, monkeypatch):
    text = """
from dataclasses import dataclass, field
from rlx.algorithm.custom_grpo import CustomGrpo
from rlx.loss.advantage.completion import Advantage, group_centered

@dataclass(frozen=True, kw_only=True)
class Centred(CustomGrpo):
    advantage: Advantage = field(default_factory=group_centered)
"""
    (tmp_path / "centred_lab.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = compose("train", ["algorithm=centred_lab.Centred"])
    assert OmegaConf.to_container(cfg.algorithm.advantage) == {"_target_": "rlx.loss.advantage.completion.group_centered"}
    assert cfg.algorithm.value_loss._target_.endswith(".squared_error")
    check_config(cfg, allowed=served)
