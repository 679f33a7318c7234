"""The types of evaluate and sample have a key for each of their YAML's, and no other."""

import pytest
from omegaconf import OmegaConf

from rlx.config.schema import SCHEMAS, conf_dir


@pytest.mark.parametrize("verb", ["evaluate", "sample"])
def test_the_yaml_sets_every_key_of_the_schema(verb):
    schema = OmegaConf.structured(SCHEMAS[f"{verb}_config"])
    written = OmegaConf.load(conf_dir() / f"{verb}.yaml")
    chosen = {name for entry in written.defaults if not isinstance(entry, str) for name in entry}
    assert set(schema) == (set(written) | chosen) - {"defaults", "hydra"} - {
        name for name in chosen if name.startswith("override")
    }


@pytest.mark.parametrize("verb", ["evaluate", "sample"])
def test_a_value_of_the_wrong_type_is_refused(verb):
    schema = OmegaConf.structured(SCHEMAS[f"{verb}_config"])
    with pytest.raises(ValueError, match="Integer"):
        schema.threads = "many"
