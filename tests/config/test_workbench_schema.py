import dataclasses

import pytest

from rlx.config.compose import compose
from rlx.config.schema import BenchConfig, CheckConfig, conf_dir


@pytest.mark.parametrize(("verb", "schema"), [("bench", BenchConfig), ("check", CheckConfig)])
def test_the_yaml_gives_every_key_of_the_schema_a_value_and_no_other(verb, schema):
    cfg = compose(verb)
    assert set(cfg) - {"hydra"} == {field.name for field in dataclasses.fields(schema)}
    assert (conf_dir() / f"{verb}.yaml").read_text().startswith(f"# rlx {verb}")
