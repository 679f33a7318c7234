"""Laws of what was sampled: each planted fault is named with a number or a place and a mend."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import rlx
from rlx.check.checker import LAWS, NOT_APPLICABLE, tried
from tests.check.checking import assert_named, failed, names_each, subject
from tests.check.faulty import FAULTS, Preferences, Rewards
from tests.check.sound import BestOfGroup, RunningBaseline, TwoSources

NAMES = ("temperature", "baseline")
ADVANTAGES = sorted((Path(__file__).parents[3] / "conf/algorithm/advantage").glob("*.yaml"))


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *NAMES), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Rewards, RunningBaseline, TwoSources], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *NAMES) == {}


@pytest.mark.parametrize(("kind", "law"), [(BestOfGroup, "temperature"), (Preferences, "temperature"), (Preferences, "baseline")])
def test_it_does_not_concern_one_that_compares_with_nothing_sampled(kind, law):
    assert tried(LAWS[law], subject(kind()))[0].status == NOT_APPLICABLE


@pytest.mark.parametrize("file", ADVANTAGES, ids=lambda file: file.stem)
def test_no_shipped_advantage_is(file):
    advantage = instantiate(OmegaConf.load(file))
    assert failed(replace(rlx.load("algorithm", "custom_grpo"), advantage=advantage), *NAMES) == {}
