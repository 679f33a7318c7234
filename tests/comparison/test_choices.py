import pytest

from rlx.comparison.choices import ALLOWED, Choices
from rlx.config.compose import read_yaml
from rlx.config.schema import conf_dir
from rlx.errors import ConfigError

DEFAULTS = dict(read_yaml(conf_dir() / "compare.yaml").items())


def test_the_yaml_holds_every_choice():
    choices = Choices.of(DEFAULTS)
    assert (choices.level, choices.failed, choices.score, choices.paired) == (0.95, "worst", "last", False)
    assert choices.alpha == pytest.approx(0.05)


@pytest.mark.parametrize("value", ["single, tasks", ["single", "tasks"], ("single", "tasks")])
def test_a_list_may_be_written_as_words(value):
    assert Choices.of({**DEFAULTS, "allow": value}).allow == ("single", "tasks")


def test_no_grouping_is_none_and_not_an_empty_one():
    assert Choices.of({**DEFAULTS, "by": []}).by is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": "lasst"}, "did you mean last"),
        ({"failed": "drop"}, "worst, exclude"),
        ({"allow": ["sinlge"]}, "did you mean single"),
        ({"level": 1.0}, "level=1.0: it must be a finite number at least 0.5 and below 1"),
        ({"margin": -0.1}, "above 0"),
        ({"num_resamples": 1}, "a whole number at least 100"),
        ({"num_resamples": 100.5}, "a whole number at least 100"),
        ({"margin": "small"}, "margin=small: it must be a finite number above 0"),
        ({"level": True}, "level=true: it must be a finite number"),
        ({"target": float("nan")}, "target=nan"),
        ({"paired": "yes"}, "true or false"),
        ({"by": {"seed": 3}}, "it must be a name, or a list of names"),
    ],
)
def test_a_wrong_choice_says_what_is_right(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Choices.of({**DEFAULTS, **wrong})


def test_every_kind_of_refusal_can_be_allowed_and_no_other():
    assert set(ALLOWED) == {"single", "tasks", "missing", "budget", "unfinished", "damaged"}
