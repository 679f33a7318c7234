"""The settings of a sweep are typed, and their mistakes are named."""

import math

import pytest
from omegaconf import OmegaConf

from rlx.config import conf_dir
from rlx.config.compose import read_yaml
from rlx.errors import ConfigError
from rlx.sweep.plan.settings import KINDS, SearchSettings, Settings, pop_settings, settings_of


def node(kind="grid", **changes):
    values = {}
    for name in list(KINDS)[: list(KINDS).index(kind) + 1]:
        found = OmegaConf.to_container(read_yaml(conf_dir() / "sweep" / f"{name}.yaml"))
        values |= {key: value for key, value in found.items() if key != "defaults"}
    return values | changes


@pytest.mark.parametrize("method", KINDS)
def test_what_stands_in_the_configs_is_valid_and_whole(method):
    assert type(settings_of(node(method))) is KINDS[method]
    assert isinstance(settings_of(node("optuna")), (SearchSettings, Settings))


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("grid", {"timout": 3}, "did you mean sweep.timeout"),
        ("grid", {"trials": 3}, "not a key of sweep=grid"),
        ("grid", {"retries": -1}, "at least 0"),
        ("grid", {"retries": "many"}, "must be"),
        ("grid", {"on_failure": "ignore"}, "continue"),
        ("grid", {"name": "a/b"}, "without /"),
        ("grid", {"name": "latest"}, "name of a directory"),
        ("grid", {"method": "magic"}, "one of grid, random, optuna"),
        ("random", {"trials": 0}, "at least 1"),
        ("optuna", {"sampler": "tpee"}, "sweep.sampler"),
        ("optuna", {"pruner": "hyper"}, "sweep.pruner"),
        ("grid", {"workers": "many"}, "sweep.workers"),
    ],
)
def test_mistakes_are_named(method, changes, said):
    with pytest.raises(ConfigError, match=said):
        settings_of(node(method, **changes))


def test_a_key_without_a_value_is_told():
    values = node()
    del values["grace"]
    with pytest.raises(ConfigError, match=r"sweep\.grace has no value"):
        settings_of(values)


@pytest.mark.parametrize(("key", "value"), [("grace", 10**400), ("timeout", math.nan), ("retries", -1), ("workers", "many")])
def test_a_single_run_is_refused_for_a_wrong_setting_of_a_sweep(key, value):
    cfg = OmegaConf.create({"seed": 0, "sweep": node("grid", **{key: value})})
    with pytest.raises(ConfigError, match=f"sweep.{key}="):
        pop_settings(cfg)


def test_a_single_run_has_no_settings_of_a_sweep():
    cfg = OmegaConf.create({"seed": 0, "sweep": node("grid")})
    pop_settings(cfg)
    assert cfg == {"seed": 0}
