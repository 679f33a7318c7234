"""A record may call what the user has as the record holds it, and nothing else; else the whole command is printed."""

import dataclasses
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlx.errors import ConfigError
from rlx.record.run import RunRecord
from rlx.record.sources import sources
from rlx.record.trust import check_command, command_for, require_named, trusted_targets, words_again

FILES = {
    "idea_loss.py": "import idea_helper\nfrom idea_pack.inner import Inner\nclass Loss: ...\nraise RuntimeError('imported')\n",
    "idea_helper.py": "SCALE = 1.0\n",
    "idea_pack/__init__.py": "",
    "idea_pack/inner.py": "class Inner: ...\n",
}
CONFIG = {
    "output_dir": "outputs",
    "cache_dir": "~/.cache/rlx",
    "loss": {"_target_": "idea_loss.Loss"},
    "task": {"_target_": "idea_pack.inner.Inner"},
    "optimizer": {"_target_": "torch.optim.AdamW"},
}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """The record of a run of classes in the working directory."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("idea_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    config = {**CONFIG, "cache_dir": str(tmp_path / "cache")}
    texts = ("id", "variant", "config_hash", "started", "task", "algorithm")
    return RunRecord(
        **dict.fromkeys(texts, "x"), status="interrupted", command=["rlx"], verb="train", seed=0, threads=1, config=config,
        overrides=[], provenance={}, sources=[source.to_dict() for source in sources(config)],
        directory=tmp_path / "outputs" / "train" / "run",
    )  # fmt: skip


def test_what_is_here_as_it_was_recorded_is_trusted_and_not_imported(record: RunRecord) -> None:
    assert trusted_targets(record) == {"idea_loss.Loss", "idea_pack.inner.Inner"}
    assert "idea_loss" not in sys.modules
    require_named(record, trusted_targets(record), "resume")
    assert command_for(record) == "rlx train resume=outputs/train/run"


@pytest.mark.parametrize("prose", ["# another comment\n", ""])
def test_another_comment_is_the_same_code(record: RunRecord, prose: str) -> None:
    Path("idea_helper.py").write_text(f"{prose}SCALE = 1.0\n")
    assert "idea_loss.Loss" in trusted_targets(record)


@pytest.mark.parametrize("file", ["idea_loss.py", "idea_helper.py", "idea_pack/__init__.py"])
def test_a_file_that_changed_and_what_imports_it_is_not(record: RunRecord, file: str) -> None:
    Path(file).write_text(f"raise SystemExit(3)\n{FILES[file]}")
    trusted = trusted_targets(record)
    assert "idea_loss.Loss" not in trusted
    with pytest.raises(ConfigError, match=r"idea_loss\.Loss.*whose code is missing or differs from the recorded code") as caught:
        require_named(record, trusted, "resume")
    typed = shlex.split(str(caught.value).rpartition(": ")[2])
    assert typed[:3] == ["rlx", "train", "resume=outputs/train/run"]
    assert {"loss=idea_loss.Loss", "allow_changed=[code]"} <= set(typed)


def test_a_name_that_the_record_has_no_hash_of_is_not(record: RunRecord) -> None:
    assert trusted_targets(dataclasses.replace(record, sources=())) == set()
    config = {**record.config, "loss": {"_target_": "idea_loss.os"}, "task": {"_target_": "os.system"}}
    assert trusted_targets(dataclasses.replace(record, config=config)) == set()
    damaged = dataclasses.replace(record, sources=[{"module": "idea_loss"}, {"module": 3}, {}])
    assert trusted_targets(damaged) == set()


def test_a_file_in_the_records_own_directory_is_not_the_users(record: RunRecord, tmp_path: Path) -> None:
    assert trusted_targets(dataclasses.replace(record, directory=tmp_path)) == set()


def test_the_command_has_the_places_and_the_classes_that_are_lacking(record: RunRecord) -> None:
    config = {**record.config, "output_dir": "/data/my runs", "logger": {"own": {"_target_": "idea_log.Log"}}}
    typed = shlex.split(command_for(dataclasses.replace(record, config=config), "rerun"))
    assert typed == [
        "rlx", "train", "rerun=outputs/train/run", "output_dir=/data/my runs", "++logger.own._target_=idea_log.Log"
    ]  # fmt: skip


def test_what_makes_a_run_again_is_its_overrides_but_for_those_of_one_run():
    given = [
        "algorithm=dpo",
        "++seed=3",
        "+parallel.timeout=9",
        "ranks=2",
        "hydra.job.chdir=false",
        "~logger.x",
        "num_steps=4",
    ]
    record = SimpleNamespace(overrides=given, command=["rlx", "train", "--config-dir", "my conf", *given], resumed=())
    record.config = {"num_steps": 8, "loss": None}
    assert words_again(record) == ["--config-dir", "my conf", "algorithm=dpo", "~logger.x", "num_steps=4"]
    record.resumed = ({"step": 4},)
    assert words_again(record)[-1] == "num_steps=8"
    assert check_command(record) == "rlx check --config-dir 'my conf' algorithm=dpo"


def test_what_an_experiment_chose_is_checked():
    config = {"num_steps": 8, "loss": {"_target_": "my_lab.my_loss", "beta": 1.0}}
    record = SimpleNamespace(overrides=["experiment=best", "optimizer.lr=1"], command=["rlx"], resumed=(), config=config)
    record.algorithm = "dpo"
    assert check_command(record) == "rlx check algorithm=dpo loss=my_lab.my_loss optimizer.lr=1"
