"""A command line taken apart."""

import pytest

from rlx.cli.line import parse_arguments, verbs
from rlx.errors import ConfigError


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "seed=1", "-m"],
        ["-m", "train", "seed=1"],
        ["seed=1", "-m", "train"],
        ["--multirun", "seed=1", "train"],
    ],
)
def test_the_verb_is_the_first_bare_word_wherever_it_stands(argv):
    line = parse_arguments(argv)
    assert (line.verb, line.overrides, line.is_multirun, line.words) == ("train", ["seed=1"], True, [])
    assert line.argv == argv


def test_the_value_of_a_flag_is_no_verb(tmp_path):
    line = parse_arguments(["--cfg", "job", "--config-dir", str(tmp_path), "-p", "loss", "train"])
    assert line.verb == "train"
    assert line.flags == ["--cfg", "job", "--config-dir", str(tmp_path), "-p", "loss"]
    assert line.values["config_dir"] == str(tmp_path)


def test_values_after_an_equals_sign(tmp_path):
    assert parse_arguments([f"--config-dir={tmp_path}", "--cfg=job"]).values == {"config_dir": str(tmp_path), "cfg": "job"}


@pytest.mark.parametrize(
    ("argv", "flags"),
    [
        (["--info"], ["--info", "all"]),
        (["--info", "train"], ["--info", "all"]),
        (["--info", "searchpath"], ["--info", "searchpath"]),
    ],
)
def test_info_takes_a_value_or_none(argv, flags):
    assert parse_arguments(argv).flags == flags


def test_later_bare_words_are_runs_or_files(tmp_path):
    odd = tmp_path / "a=b"
    odd.mkdir()
    line = parse_arguments(["train", "one", str(odd), "seed=1", "two"])
    assert line.words == ["one", str(odd), "two"]
    assert line.overrides == ["seed=1"]


def test_a_group_within_a_group_is_an_override():
    assert parse_arguments(["train", "algorithm/regularizer=entropy", "~logger"]).overrides == [
        "algorithm/regularizer=entropy",
        "~logger",
    ]


@pytest.mark.parametrize("argv", [["num_steps", "=", "5"], ["num_steps", "=5"]])
def test_an_override_with_spaces_is_written_as_it_was_meant(argv):
    with pytest.raises(ConfigError, match=r"write num_steps=5$"):
        parse_arguments(["train", *argv])


def test_a_sweep_is_no_verb_of_its_own():
    with pytest.raises(ConfigError, match="a sweep is a train with -m"):
        parse_arguments(["sweep", "seed=1,2"])


def test_a_path_without_a_verb_says_so(tmp_path):
    with pytest.raises(ConfigError, match="is a path, and no verb comes before it"):
        parse_arguments([str(tmp_path)])


def test_verbs_are_the_files_with_a_primary_config():
    found = verbs()
    assert next(iter(found)) == "train"
    assert "main" not in found
    assert "words" not in found
    assert all(verb.summary.endswith((".", "?")) and verb.yaml.is_file() for verb in found.values())
