"""What the help says of an algorithm is what its class says."""

import pytest

from rlx.cli.help import summary_of
from rlx.config.compose import compose, groups
from rlx.config.schema import conf_dir
from rlx.config.targets import locate


@pytest.mark.parametrize("option", groups([conf_dir()])["algorithm"])
def test_kind_needs_and_docstring_without_importing(option):
    found = summary_of(option, [conf_dir()])
    algorithm = locate(compose("train", [f"algorithm={option}"]).algorithm._target_, "algorithm")
    assert found.kind == algorithm.kind.value
    assert set(found.needs) == {need.value for need in algorithm.needs}
    first = (conf_dir() / "algorithm" / f"{option}.yaml").read_text().partition("\n")[0]
    assert found.text == (first[2:] if first.startswith("# ") else algorithm.__doc__.strip().partition("\n")[0])


def test_a_class_from_elsewhere_has_none(tmp_path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "mine.yaml").write_text("_target_: my_lab.Mine\n")
    assert summary_of("mine", [tmp_path]).text == ""
