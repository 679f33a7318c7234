"""The folders of configs that a command needs."""

from rlx.record.trust import folder_words, search_path


def test_folders_are_named_as_typed_and_as_a_search_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = ["rlx", "-m", "--config-dir", "my", "algorithm=a", "hydra.searchpath=[pkg://b.conf,file:///c]", "seed=0,1"]
    assert folder_words(command) == ["--config-dir", "my", "hydra.searchpath=[pkg://b.conf,file:///c]"]
    assert search_path(command) == f"hydra.searchpath=[file://{tmp_path}/my,pkg://b.conf,file:///c]"
    assert search_path(["rlx", "--config-dir=/my conf"]) == "hydra.searchpath=[file:///my conf]"


def test_most_commands_need_none():
    assert folder_words(["rlx", "train", "algorithm=dpo"]) == []
    assert search_path(["rlx", "train", "algorithm=dpo"]) is None
