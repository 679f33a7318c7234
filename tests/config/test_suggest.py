"""The nearest right name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rlx.config.compose import compose, config_folders, groups, option_node
from rlx.config.suggest import FOREIGN, nearest, nearest_path, right_name

PATHS = [
    "algorithm",
    "algorithm.sft_loss_weight",
    "loss",
    "loss.beta",
    "optimizer.lr",
    "num_steps",
    "evaluation.num_prompts",
    "seed",
]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("loss.betta", "loss.beta"),
        ("algorithm.beta", "loss.beta"),
        ("beta", "loss.beta"),
        ("num_step", "num_steps"),
        ("evaluation.prompts", "evaluation.num_prompts"),
        ("sft_loss_weight", "algorithm.sft_loss_weight"),
        ("max_num_steps", "num_steps"),
        ("quite_another_thing", None),
    ],
)
def test_right_name(wrong, right):
    assert right_name(wrong, PATHS) == right


def test_a_name_is_not_its_own_suggestion():
    assert right_name("seed", PATHS) != "seed"


@given(st.sampled_from(PATHS), st.integers(0, 30))
def test_a_path_with_a_letter_missing_is_found(path, place):
    leaf = path.rpartition(".")[2]
    if len(leaf) < 4:
        return
    cut = len(path) - 1 - place % len(leaf)
    assert nearest_path(path[:cut] + path[cut + 1 :], PATHS) == path


def test_the_last_component_counts_more_than_its_beginning():
    assert nearest_path("optimizer.warmup_step", ["optimizer.warm_up", "scheduler.warmup_steps"]) == "scheduler.warmup_steps"


def test_a_name_with_an_addition_is_found():
    assert nearest("hybrid_algorithm", ["dpo", "hybrid"]) == "hybrid"
    assert nearest("custom_dpo-with-entropy-bonus", ["custom", "custom_dpo"]) == "custom_dpo"
    assert nearest("hybridisation_of_both", ["dpo", "hybrid"]) is None


def test_letters_in_another_order():
    assert nearest("tyni", ["tiny", "pretrained"]) == "tiny"


def existing_names() -> set[str]:
    """Every group and every key of every option."""
    folders = config_folders()
    found = {group.replace("/", ".") for group in groups(folders)} | {str(key) for key in compose("train")}
    for group, options in groups(folders).items():
        for option in options:
            found |= {f"{group}.{key}" for key in option_node(group, option, folders)}
    for parent in ("evaluation", "checkpoint", "export"):
        found |= {f"{parent}.{key}" for key in compose("train")[parent]}
    return found


def test_names_of_other_tools_lead_to_names_that_exist():
    on_policy = {"algorithm.group_size", "algorithm.advantage", "algorithm.prompts_per_step", "loss.clip_low", "loss.clip_high"}
    arriving = set() if "grpo" in groups(config_folders())["algorithm"] else on_policy
    assert {name for name in FOREIGN.values() if "=" not in name} - existing_names() <= arriving


@pytest.mark.parametrize("words", sorted({words for words in FOREIGN.values() if "=" in words}))
def test_choices_that_stand_for_names_of_other_tools_can_be_written(words):
    given = dict(word.split("=", 1) for word in words.split())
    composed = compose("train", [*words.split(), *([] if "task" not in given else ["task.path=prompts.jsonl"])])
    assert {key for key in given if "." in key} <= {key for key in given if OmegaConf.select(composed, key) is not None}
