"""Laws of advantages: what they say of a fault, and that no shipped advantage is accused."""

from dataclasses import replace

import pytest
from hydra.utils import instantiate

import rlx
from rlx.check.checker import LAWS, tried
from rlx.check.finding import NOT_APPLICABLE, PASSED
from rlx.config.compose import groups, option_node
from rlx.config.schema import conf_dir
from tests.check.checking import failed, subject
from tests.check.faulty import ActorCritic, AdvantagesOfTheTokenBefore, Preferences, Rewards, RunsOnIntoTheNextCompletion

ADVANTAGES = groups([conf_dir()])["algorithm/advantage"]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_no_shipped_advantage_is_accused(name):
    advantage = instantiate(option_node("algorithm/advantage", name, [conf_dir()]))
    assert failed(replace(rlx.load("algorithm", "custom_grpo"), advantage=advantage), "alike", "credit") == {}


def test_a_reward_for_a_completion_that_reads_as_nothing_is_no_error_of_the_critic():
    assert tried(LAWS["credit"], replace(subject(rlx.load("algorithm", "ppo")), seed=1))[0].number == "5 places"


@pytest.mark.parametrize(
    ("kind", "said"),
    [(AdvantagesOfTheTokenBefore, "the advantages of later tokens"), (RunsOnIntoTheNextCompletion, "of other completions")],
)
def test_it_is_said_what_an_error_of_the_critic_moves(kind, said):
    assert said in failed(kind(), "credit")["credit"].wrong


def test_both_laws_say_what_they_looked_at_or_why_they_did_not():
    found = {
        (kind, law): tried(LAWS[law], subject(kind()))[0]
        for kind in (Rewards, ActorCritic, Preferences)
        for law in ("alike", "credit")
    }
    assert (found[Rewards, "alike"].status, found[ActorCritic, "credit"].status) == (PASSED, PASSED)
    assert found[ActorCritic, "credit"].number == "5 places"
    assert found[ActorCritic, "alike"].status == found[Preferences, "credit"].status == NOT_APPLICABLE


class SumOverTheOthers(Rewards):
    """The sum of all rewards, divided by the number of the others."""

    def advantages(self, rewards):
        return rewards - rewards.sum(dim=1, keepdim=True) / (rewards.shape[1] - 1)


def test_a_baseline_that_rises_by_more_than_the_rewards_is_named():
    assert "by -0.33 times that much" in failed(SumOverTheOthers(), "baseline")["baseline"].wrong
