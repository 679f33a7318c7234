"""No field of any config takes a class or function that it is not meant for, and nothing is called to find out."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from omegaconf import MISSING, OmegaConf

from rlx.config.check import check_config, plain_config
from rlx.config.compose import compose, groups
from rlx.config.groups import GROUPS
from rlx.config.schema import conf_dir
from rlx.config.targets import check_targets
from rlx.errors import ConfigError
from rlx.nested import leaves

# Named nowhere on a command line: each is refused as any text would be that is not on the list.
FOREIGN = (
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.Popen",
    "functools.partial",
    "pathlib.Path.write_text",
    "torch.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "hydra.utils.instantiate",
    "numpy.save",
)
# Reached through what rlx or torch.optim imports, or rlx's own that no config is made of.
THROUGH = (
    "torch.optim.optimizer.torch.hub.load_state_dict_from_url",
    "torch.optim.optimizer.torch.hub.download_url_to_file",
    "torch.optim.adamw.torch.load",
    "torch.optim.optimizer.functools.partial",
    "torch.optim.swa_utils.update_bn",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.optim.optimizer.cast",
    "torch.optim.swa_utils",
    "torch.optim.adamw",
    "rlx.record.files.os.system",
    "rlx.record.files.write_atomic",
    "rlx.record.run.read_run",
    "rlx.record.recorder.Recorder",
    "rlx.record.recorder.Recorder.create",
    "rlx.policy.base.torch.load",
    "rlx.policy.files.Path",
    "rlx.policy.files.subprocess.Popen",
    "rlx.policy.pretrained.json.loads",
    "rlx.loss.preference.margin.torch.hub.load",
    "rlx.data.stores.TokenStore",
    "rlx.training.run.train",
    "rlx.sweep.run.Path",
    "rlx.train",
    "rlx.runs",
    "rlx.__main__.main",
)
HOSTILE = FOREIGN + THROUGH


@pytest.fixture(scope="module")
def run():
    return plain_config(compose("train"))


@pytest.fixture(scope="module")
def shipped():
    """Group and option -> the plain config of a run in which that option is chosen, for every file of conf/."""
    found = {}
    for group, options in groups([conf_dir()]).items():
        if group not in GROUPS:
            continue
        for option in options:
            host = f"{GROUPS[group].above}={GROUPS[group].host}" if GROUPS[group].host else None
            chosen = f"{group}=[{option}]" if GROUPS[group].several else f"{group}={option}"
            hosts = [host] if host else ["algorithm=custom_dpo", "algorithm=custom_grpo"] if group == "loss" else [None]
            for one in hosts:  # a loss is that of an algorithm which takes its kind
                config = compose("train", [item for item in (one, chosen) if item])
                for path, value in leaves(OmegaConf.to_container(config, resolve=False)).items():
                    if value == MISSING:
                        OmegaConf.update(config, path, 1 if path.endswith("_characters") else "x")
                found[group, option] = plain_config(config)
                if not is_refused(config):
                    break
    return found


def places_in(node, path=()):
    """The path of every value of a plain config, of its nodes too."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key not in ("_target_", "_partial_"):
            yield (*path, key)
            yield from places_in(value, (*path, key))


def holder(config, path):
    """The `_target_` of the nearest node above a path."""
    node, found = config, None
    for key in path[:-1]:
        node = node[key]
        found = node.get("_target_", found) if isinstance(node, dict) else found
    return found


def with_value(config, path, value):
    changed = copy.deepcopy(config)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that is written by whatever is called of what is named here."""
    file = tmp_path / "canary"

    def touched(*arguments, **keywords):
        file.write_text(repr((arguments, keywords)))

    for owner, name in (
        (os, "system"), (subprocess, "Popen"), (torch, "load"), (torch.hub, "load"), (torch.hub, "load_state_dict_from_url"),
        (torch.hub, "download_url_to_file"), (pickle, "load"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, touched)
    return file


def is_refused(config, allowed=()):
    try:
        check_config(config, allowed=allowed)
    except ConfigError:
        return True
    return False


def forms(target):
    """A node of a target as it can be given: alone, bound, in a mapping, in a list, and with arguments."""
    node = {"_target_": target}
    return [
        node,
        {**node, "_partial_": True},
        {"a": node},
        {"a": {"b": {**node, "_partial_": True}}},
        [node],
        [{"a": [{**node, "_partial_": True}]}],
        {**node, "_args_": ["x"]},
        {"_target_": "rlx.policy.tiny.load_tiny", "path": node},
    ]


@pytest.mark.slow
def test_every_field_of_every_shipped_config(shipped, canary, monkeypatch):
    """Every place is tried, with the targets and the forms in turn, so that each target meets each group."""

    def load_environment(**parameters):
        raise AssertionError("nothing is called")

    load_environment.__module__, load_environment.__qualname__ = "x", "load_environment"
    monkeypatch.setitem(sys.modules, "x", SimpleNamespace(load_environment=load_environment, __name__="x"))
    tried, turn = 0, 0
    walked = {}
    for (group, option), config in shipped.items():
        named = ["x.load_environment"] if option == "verifiers" else []  # of task.env=x, which is the user's to name
        assert not is_refused(OmegaConf.create(config), named), f"{group}={option} is refused as it is shipped"
        root = GROUPS[group].name.partition("/")[0]
        for path in places_in({root: config[root]}):
            walked.setdefault((path, holder(config, path)), (config, path))
    for config, path in walked.values():
        for _ in range(3):
            target = HOSTILE[turn % len(HOSTILE)]
            form = forms(target)[turn % 8]
            turn += 1
            cfg = OmegaConf.create(with_value(config, path, form))
            assert is_refused(cfg), f"{'.'.join(map(str, path))} took {form}"
            tried += 1
    assert tried > 1000
    assert not canary.exists()


@pytest.mark.parametrize("target", HOSTILE)
def test_every_target_in_every_fifth_field_of_a_run(run, canary, target):
    """Also in fields of nodes that belong to no group; the targets begin at different fields, so that each field meets many."""
    config, first = run, HOSTILE.index(target) % 5
    for index, path in list(enumerate(places_in(config)))[first::5]:
        form = forms(target)[index % 4]
        assert is_refused(OmegaConf.create(with_value(config, path, form))), f"{'.'.join(map(str, path))} took {form}"
    assert not canary.exists()


@pytest.mark.parametrize("target", THROUGH)
def test_naming_it_on_the_command_line_helps_no_walk_through_modules(target, canary):
    """Not even what the user's own command line names may be reached through what another module imported."""
    if target in ("rlx.record.recorder.Recorder", "rlx.data.stores.TokenStore", "torch.optim.lr_scheduler.LambdaLR"):
        pytest.skip("a class under its own name is held against its field")
    with pytest.raises(ConfigError):
        check_targets({"algorithm": {"_target_": target}}, {target})
    assert not canary.exists()


def test_a_policy_around_a_model_that_runs_a_pickle(canary):
    config = plain_config(compose("train"))
    model = {
        "_target_": "torch.optim.optimizer.torch.hub.load_state_dict_from_url", "url": "file:///x", "weights_only": False,
    }  # fmt: skip
    config["policy"] = {"_target_": "rlx.policy.base.Policy", "model": model, "tokenizer": None, "name": "x"}
    with pytest.raises(ConfigError, match=r"leads through torch\.optim\.optimizer\.torch, which is the module torch"):
        check_config(OmegaConf.create(config))
    assert not canary.exists()


SOURCE = """
from typing import Any

from rlx.policy.base import Policy
from rlx.record.files import write_atomic
import torch


def says_none(path: str) -> None:
    raise RuntimeError("called")


def says_nothing(path="x"):
    raise RuntimeError("called")


def says_any(path: str = "x") -> Any:
    raise RuntimeError("called")


def any_keyword(**options) -> Policy:
    raise RuntimeError("called")


class Holder:
    torch = torch

    def __init__(self, value: Any = None) -> None:
        raise RuntimeError("called")


made = Holder.__new__(Holder)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "lab_of_targets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "lab_of_targets"
    import sys

    sys.modules.pop("lab_of_targets", None)


@pytest.mark.parametrize("name", ["says_none", "says_nothing", "says_any", "Holder"])
@pytest.mark.parametrize("key", ["algorithm.max_grad_norm", "algorithm.pairs_per_step", "task.max_operand", "loss", "policy"])
def test_a_function_fits_what_it_is_annotated_to_return(mine, name, key):
    config = OmegaConf.create(plain_config(compose("train")))
    OmegaConf.update(config, key, {"_target_": f"{mine}.{name}", "path": "x"}, merge=False, force_add=True)
    with pytest.raises(ConfigError):
        check_config(config, allowed=[f"{mine}.*"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("write_atomic", r"is rlx\.record\.files\.write_atomic; give it that name"),
        ("torch.load", r"leads through lab_of_targets\.torch, which is the module torch"),
        ("Holder.torch.load", r"leads through lab_of_targets\.Holder\.torch"),
        ("made", "is an object of Holder"),
    ],
)
def test_a_module_of_ones_own_serves_what_it_defines(mine, name, message):
    with pytest.raises(ConfigError, match=message):
        check_targets({"policy": {"_target_": f"{mine}.{name}"}}, [f"{mine}.*"])


def test_nodes_below_any_keyword_are_looked_at(mine):
    config = OmegaConf.create(plain_config(compose("train")))
    inner = {"_target_": f"{mine}.says_nothing"}
    node = {"_target_": f"{mine}.any_keyword", "_partial_": True, "x": inner}
    config.policy = node
    with pytest.raises(ConfigError):
        check_config(config, allowed=[f"{mine}.*"])
