"""Laws of log-probabilities accuse no shipped advantage and no sound baseline, and skip what they do not concern."""

from dataclasses import replace

import pytest
from hydra.utils import instantiate

import rlx
from rlx.check.checker import LAWS, tried
from rlx.check.finding import NOT_APPLICABLE
from rlx.config.compose import groups, option_node
from rlx.config.schema import conf_dir
from tests.check.checking import failed, subject
from tests.check.faulty import Preferences
from tests.check.sound import BestOfGroup, RunningBaseline, TwoSources

ADVANTAGES = groups([conf_dir()])["algorithm/advantage"]


@pytest.mark.parametrize("kind", [RunningBaseline, TwoSources], ids=lambda kind: kind.__name__)
def test_a_sound_baseline_is_not_accused(kind):
    assert failed(kind(), "temperature", "baseline") == {}


@pytest.mark.parametrize(("kind", "law"), [(BestOfGroup, "temperature"), (Preferences, "temperature"), (Preferences, "baseline")])
def test_it_does_not_concern_one_that_compares_with_nothing_sampled(kind, law):
    assert tried(LAWS[law], subject(kind()))[0].status == NOT_APPLICABLE


@pytest.mark.parametrize("name", ADVANTAGES)
def test_no_shipped_advantage_is_accused(name):
    advantage = instantiate(option_node("algorithm/advantage", name, [conf_dir()]))
    assert failed(replace(rlx.load("algorithm", "custom_grpo"), advantage=advantage), "temperature", "baseline") == {}
