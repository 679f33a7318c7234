"""The schema and conf/train.yaml name the same keys; the values stand in the YAML alone."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

from omegaconf import MISSING, OmegaConf

from rlx.config import RunConfig, conf_dir
from rlx.config.groups import RUN_GROUPS


def yaml_values():
    return {
        key: value
        for key, value in OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml")).items()
        if key != "defaults"
    }


def keys(schema, path=""):
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(item.type):
            yield from keys(item.type, f"{path}{item.name}.")
        else:
            yield path + item.name


def flat(values, path=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{key}.")
        else:
            yield path + key


def test_every_key_of_the_schema_has_its_value_in_the_yaml_and_the_other_way_round():
    assert set(flat(yaml_values())) == set(keys(RunConfig)) - set(RUN_GROUPS) - {"sweep", "parallel.mode", "parallel.timeout"}


def test_the_schema_holds_no_defaults():
    for item in dataclasses.fields(RunConfig):
        if item.name not in ("loss", "sweep") and item.default is not dataclasses.MISSING:
            assert item.default == MISSING, item.name


def test_every_key_of_the_yaml_has_a_comment():
    lines = (conf_dir() / "train.yaml").read_text().splitlines()
    bare = [line for line in lines if re.match(r"^ *\w+: *\S", line) and "#" not in line]
    assert bare == []


def test_conf_is_the_package_rlx_conf():
    import rlx.conf

    assert Path(rlx.conf.__file__).parent == conf_dir()


def test_config_imports_no_torch():
    code = "import sys, rlx.config.check, rlx.config.sources; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "False",
    ]
