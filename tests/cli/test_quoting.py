"""What people type unquoted reaches the config as they typed it."""

import os
import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rlx.cli.line import is_text_key, quote_override, quoted
from rlx.cli.main import invoke
from rlx.errors import ConfigError


def value_of(override):
    return OverridesParser.create().parse_override(override).value()


TYPED = [
    "12+34=",
    ".5",
    "inf",
    "NaN",
    "Infinity",
    "-5",
    "False",
    "a (b",
    "score<0.5",
    "x, y",
    "a=b",
    "it's",
    'say "hi"',
    "a\\",
    "\\'",
    "a: b",
    "{x}",
    "tail\\\\",
    "#1",
    "@home",
    "é ü",
    "1e-3",
    "true",
]


@pytest.mark.parametrize("text", TYPED)
@pytest.mark.parametrize(
    "key", ["prompt", "where", "fail_if", "out", "resume", "rerun", "task.path", "policy.path", "+task.path", "output_dir"]
)
def test_text_arrives_as_typed(key, text):
    arrived = value_of(quote_override(f"{key}={text}"))
    assert arrived == text
    assert OmegaConf.create({"x": arrived}).x == text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1))
def test_any_prompt_arrives(text):
    if text in ("null",) or (len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]) or (text[0] == "[" and text[-1] == "]"):
        return
    assert OmegaConf.create({"x": value_of(quote_override(f"prompt={text}"))}).x == text


@given(st.text("ab./-_1eE+", min_size=1))
def test_paths_that_need_no_quotes_arrive_too(text):
    assert OmegaConf.create({"x": value_of(quote_override(f"task.path={text}"))}).x == text


def test_usual_paths_stay_readable():
    assert quote_override("output_dir=/data/runs/a-b_1.5") == "output_dir=/data/runs/a-b_1.5"
    assert quote_override("resume=outputs/train/latest") == "resume=outputs/train/latest"


def test_home_is_expanded_in_paths_only():
    assert value_of(quote_override("task.path=~/pairs.jsonl")) == os.path.expanduser("~/pairs.jsonl")
    assert value_of(quote_override("prompt=~/x")) == "~/x"


def test_an_interpolation_in_a_path_stays_one():
    assert value_of(quote_override("output_dir=${oc.env:HOME}/x")) == "${oc.env:HOME}/x"


@pytest.mark.parametrize(
    "override",
    [
        "seed=range(0,5)",
        "loss.beta=0.1",
        "task.path='a b'",
        "resume=null",
        "~logger",
        "optimizer.betas=[0.9,0.95]",
        "prompt=[a,b]",
    ],
)
def test_left_alone(override):
    assert quote_override(override) == override
    assert quote_override(override, multirun=True) == override


def test_in_a_sweep_commas_separate_paths():
    assert quote_override("policy.path=a b,c", multirun=True) == "policy.path='a b',c"
    # A comma within quotes belongs to the value, as Hydra reads it.
    for value in ("'a,b.jsonl',c.jsonl", 'c.jsonl,"a,b.jsonl"', "'a,b'", "'a','b,c'", "'it\\'s,so',x"):
        assert quote_override(f"task.path={value}", multirun=True) == f"task.path={value}"
    assert quote_override("task.path='a,b',c d", multirun=True) == "task.path='a,b','c d'"
    assert quote_override("task.path=a,", multirun=True) == "task.path=a,''"
    assert quote_override("policy.path=glob(*)", multirun=True) == "policy.path=glob(*)"


def test_numbers_and_choices_are_no_text():
    assert not is_text_key("seed")
    assert not is_text_key("loss.beta")
    assert is_text_key("hydra.run.dir")


def test_quoted_is_read_back():
    assert value_of(f"x={quoted('a b')}") == "a b"


@pytest.mark.parametrize("text", ["{a:1}", "{a: 1, b: 2}", "{}", "{a:{b:1}}"])
@pytest.mark.parametrize("key", ["output_dir", "cache_dir", "export.path", "+task.path"])
@pytest.mark.parametrize("multirun", [False, True])
def test_a_mapping_is_no_path(key, text, multirun):
    with pytest.raises(ConfigError, match="a path is text, not a mapping"):
        quote_override(f"{key}={text}", multirun=multirun)


def test_a_path_with_braces_that_is_no_mapping_or_is_quoted_stays():
    assert value_of(quote_override("output_dir=runs/{a}")) == "runs/{a}"
    assert value_of(quote_override("output_dir='{a:1}'")) == "{a:1}"


@pytest.mark.parametrize("value", ["a (b", 'it\'s "so", he said', "[1, 2", "'", "a\\ 'b"])
def test_a_value_that_hydra_cannot_read_is_shown_as_it_can_be_typed(value):
    code, message = invoke(["train", f"loss.beta={value}", "--cfg", "job"])
    assert code == 2
    (typed,) = shlex.split(re.search("quote it.*?: (.*)$", message)[1])
    assert value_of(typed) == value
