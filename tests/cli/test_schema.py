"""The schema of a verb has a key for each of its YAML's, and no other."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from rlx.cli.line import verbs
from rlx.config.compose import compose

TYPED = [name for name, verb in verbs().items() if hasattr(verb.load(), "SCHEMA")]


@pytest.mark.parametrize("name", TYPED)
def test_the_yaml_gives_every_key_of_the_schema_a_value_and_no_other(name):
    verb = verbs()[name]
    cfg = compose(name)
    assert set(cfg) - {"hydra"} == {field.name for field in dataclasses.fields(verb.load().SCHEMA)}
    assert verb.yaml.read_text().startswith(f"# rlx {name}")


@pytest.mark.parametrize("name", ["evaluate", "sample"])
def test_a_value_of_the_wrong_type_is_refused(name):
    schema = OmegaConf.structured(verbs()[name].load().SCHEMA)
    with pytest.raises(ValueError, match="Integer"):
        schema.threads = "many"


def test_these_verbs_have_types():
    assert {"train", "evaluate", "sample", "check", "bench", "new"} <= set(TYPED)
