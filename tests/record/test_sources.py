"""The user's own files behind a config are found without being imported."""

import sys
from pathlib import Path

import pytest

from rlx.record.sources import sources


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "lab_one.py": "import lab_two\nimport numpy.linalg\nraise RuntimeError('imported')\n",
        "lab_two.py": "from lab_pack import inner\n",
        "lab_pack/__init__.py": "",
        "lab_pack/inner.py": "from . import sibling\nfrom .sibling import value\nfrom rlx import errors\n",
        "lab_pack/sibling.py": "value = 1\n",
        "lab_pack/unused.py": "",
        "lab_broken.py": "def broken(:\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("lab_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_a_file_and_what_it_imports_of_its_neighbours(lab: Path) -> None:
    config = {
        "algorithm": {"_target_": "lab_one.Mine", "loss": [{"_target_": "lab_one.Loss"}]},
        "optimizer": {"_target_": "torch.optim.AdamW"},
    }
    found = sources(config)
    assert [source.module for source in found] == ["lab_one", "lab_pack", "lab_pack.inner", "lab_pack.sibling", "lab_two"]
    assert found[0].targets == ("lab_one.Loss", "lab_one.Mine")
    assert found[0].file == (lab / "lab_one.py").resolve()
    assert [source.copy for source in found[:3]] == [
        "sources/lab_one.py",
        "sources/lab_pack/__init__.py",
        "sources/lab_pack/inner.py",
    ]
    assert "lab_one" not in sys.modules


def test_nothing_of_rlx_nor_of_what_is_installed(lab: Path) -> None:
    names = ["rlx.loss.dpo.Dpo", "torch.optim.SGD", "os.system", "no_such_module.X", "Bare", "lab_pack.absent.X"]
    found = sources({"a": [{"_target_": name} for name in names], "b": {"_target_": 3}})
    assert [source.module for source in found] == ["lab_pack"]


def test_a_logger_changes_no_number(lab: Path) -> None:
    assert sources({"logger": {"mine": {"_target_": "lab_two.Logger"}}}) == []


def test_a_file_that_does_not_parse_is_kept_all_the_same(lab: Path) -> None:
    (source,) = sources({"_target_": "lab_broken.X"})
    assert source.module == "lab_broken"


def test_the_hash_follows_the_text(lab: Path) -> None:
    before = sources({"_target_": "lab_pack.inner.X"})
    (lab / "lab_pack" / "sibling.py").write_text("value = 2\n")
    after = sources({"_target_": "lab_pack.inner.X"})
    assert {source.module for source in before if source not in after} == {"lab_pack.sibling"}
