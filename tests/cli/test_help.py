"""The help: verbs first, then groups and their options, then examples."""

from rlx.cli.help import node_comments, overview, verb_help
from rlx.cli.line import parse_arguments, verbs
from rlx.config.compose import CommandLine, groups
from rlx.config.schema import conf_dir


def test_verbs_then_groups_then_examples():
    text = overview()
    places = [text.index(word) for word in ("verbs", "\ngroups", "\nalgorithms", "\noptions\n", "\nexamples")]
    assert places == sorted(places)
    for name, verb in verbs().items():
        assert f"  {name}" in text
        assert verb.summary in text


def test_every_option_of_every_group_is_there():
    text = overview()
    for group, options in groups([conf_dir()]).items():
        assert f"  {group} " in text
        assert all(option in text.split() for option in options)


def test_folders_of_the_users_own_are_listed_too(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "gentle.yaml").touch()
    assert "gentle" in overview(CommandLine(values={"config_dir": str(tmp_path)})).split()


def test_the_help_of_a_verb_shows_its_keys_with_their_comments():
    text = verb_help("train")
    assert "num_steps: 200" in text
    assert "a step is one draw of the algorithm" in text


def test_the_examples_are_command_lines():
    lines = [line for line in overview().splitlines() if line.startswith("  rlx ")]
    assert len(lines) >= 5
    for line in lines:
        words = line.split("  ")[1].replace("'", "").split()[1:]
        assert parse_arguments(words).verb in (None, "train")


def test_node_comments_leave_the_defaults_out():
    text = node_comments(conf_dir() / "train.yaml")
    assert "num_steps: 200" in text
    assert "defaults:" not in text
    assert "run_config" not in text
