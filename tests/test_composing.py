"""What the tests do not compose twice is what Hydra would compose."""

import pytest
from hydra import errors
from hydra._internal import config_loader_impl
from omegaconf import OmegaConf

from rlx.config.compose import compose
from tests import composing

LINES = [
    ["seed=3"],
    ["seed=4", "loss.beta=0.5"],
    ["algorithm=custom_grpo", "loss=gspo", "seed=4"],
    ["algorithm=hybrid", "algorithm@algorithm.dpo=online_dpo", "loss@algorithm.dpo.loss=ipo", "+policy.chat_template_kwargs.x=1"],
    ["logger=[tensorboard,wandb]", "logger.wandb.project=x", "~scheduler"],
]


@pytest.mark.parametrize("with_hydra", [False, True])
def test_a_config_is_the_one_that_hydra_composes(monkeypatch, with_hydra):
    copied = [OmegaConf.to_yaml(compose("train", line, with_hydra=with_hydra)) for line in LINES * 2]
    loader = config_loader_impl.ConfigLoaderImpl
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", config_loader_impl.create_defaults_list.__wrapped__)
    merge = loader._compose_config_from_defaults_list.__wrapped__
    monkeypatch.setattr(loader, "_compose_config_from_defaults_list", merge)
    monkeypatch.setattr(OmegaConf, "load", OmegaConf.load.__wrapped__)
    assert copied == [OmegaConf.to_yaml(compose("train", line, with_hydra=with_hydra)) for line in LINES] * 2


def test_a_config_that_is_changed_changes_no_other():
    compose("train", ["seed=3"]).loss.beta = 17.0
    assert compose("train", ["seed=3"]).loss.beta != 17.0


def test_a_file_that_is_changed_is_read_again(tmp_path):
    folder = tmp_path / "loss"
    folder.mkdir()
    line = [f"hydra.searchpath=['{tmp_path}']", "loss=of_mine"]
    for beta in (0.25, 0.75):
        (folder / "of_mine.yaml").write_text(f"defaults: [dpo, _self_]\nbeta: {beta}\n")
        assert compose("train", line).loss.beta == beta
    (folder / "of_mine.yaml").unlink()
    with pytest.raises(errors.MissingConfigException):
        compose("train", line)


def test_a_wrong_choice_is_refused_each_time():
    for _ in range(2):
        with pytest.raises(errors.MissingConfigException):
            compose("train", ["loss=no_such_loss"])


def test_of_each_step_a_number_of_results_is_kept():
    kept = {}
    for number in range(composing._MOST + 5):
        composing._keep(kept, number, number)
    assert len(kept) == composing._MOST
    assert min(kept) == 5
