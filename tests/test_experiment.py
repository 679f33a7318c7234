import json
from dataclasses import replace

import pytest
import torch

import rlx
from rlx.algorithm import Algorithm, AlgorithmType
from rlx.config.compose import compose
from rlx.errors import ConfigError, DataError
from rlx.experiment import assemble, require_match, require_scores, torch_device
from rlx.loss.preference.mixture import LossPart

pytestmark = pytest.mark.whole

SMALL = ["policy=tiny_untrained", "policy.hidden_size=16", "policy.num_heads=2", "policy.num_layers=1"]


def test_a_config_becomes_the_objects_that_it_names():
    experiment = assemble(compose("train", [*SMALL, "algorithm=dpo", "loss=ipo", "loss.beta=0.7", "scheduler=linear"]))
    assert type(experiment.algorithm).__name__ == "Dpo"
    assert (type(experiment.algorithm.loss).__name__, experiment.algorithm.loss.beta) == ("ipo", 0.7)
    assert experiment.schedule.needs_horizon
    assert isinstance(experiment.make_optimizer(experiment.policy.parameters()), torch.optim.AdamW)


def test_activations_are_checkpointed_where_the_config_says_so():
    for value in (True, False):
        experiment = assemble(compose("train", [*SMALL, f"activation_checkpointing={value}"]))
        assert experiment.policy.forward_settings.checkpoints is value


def test_an_algorithm_is_refused_before_a_model_is_built():
    task, algorithm = rlx.load("task", "arithmetic"), rlx.load("algorithm", "dpo")
    require_match(algorithm, task)
    object.__setattr__(task, "offers", frozenset({"rewards"}))
    with pytest.raises(ConfigError, match="needs pairs, but task arithmetic offers only rewards"):
        require_match(algorithm, task)


def test_an_algorithm_says_its_kind_and_its_needs():
    class Silent(Algorithm):
        pass

    class Kind(Algorithm):
        kind = AlgorithmType.HYBRID

    for algorithm, lacking in ((Silent(), "kind"), (Kind(), "needs")):
        with pytest.raises(ConfigError, match=f"does not say its {lacking}; write, in the class: {lacking} = "):
            require_match(algorithm, rlx.load("task", "arithmetic"))


@pytest.mark.parametrize("override", ["task.max_operand=2", "loss.beta=-1", "rollout.temperature=0", "scheduler.warmup_steps=-4"])
def test_a_refused_value_comes_through_as_it_was_said(override):
    name = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ConfigError, match=name):
        assemble(compose("train", [*SMALL, override]))


def test_devices():
    assert torch_device("cpu").type == "cpu"
    assert torch_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="device=gpu0"):
        torch_device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no GPU"):
            torch_device("cuda:1")


def test_single_completions_need_losses_that_read_labels_in_every_part():
    task = rlx.load("task", "arithmetic")
    object.__setattr__(task, "offers", frozenset({"pairs", "labels"}))
    own = rlx.load("algorithm", "dpo")
    kto, pair = rlx.load("loss", "kto"), rlx.load("loss", "dpo")
    require_match(replace(own, loss=kto), task)
    parts = {"kto": LossPart(coefficient=1.0, loss=kto), "dpo": LossPart(coefficient=1.0, loss=pair)}
    mixed = replace(rlx.load("loss", "mixture"), parts=parts)
    for loss in (pair, mixed):
        with pytest.raises(ConfigError, match="has single completions with a label, and dpo compares the two of a pair"):
            require_match(replace(own, loss=loss), task)


def test_a_loss_that_reads_scores_is_refused_before_a_model_is_built_where_pairs_have_none(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\n".join(f'{{"prompt": "{i}", "chosen": "a", "rejected": "b"}}' for i in range(9)))
    task = rlx.load("task", "preference_file", path=str(tmp_path / "pairs.jsonl"))
    odpo = replace(rlx.load("algorithm", "dpo"), loss=rlx.load("loss", "odpo"))
    with pytest.raises(
        ConfigError, match=r"loss odpo reads score_gap, .* [5-8] of [5-8] pairs .* have no scores; .*chosen_score_key"
    ):
        require_scores(odpo, task)
    require_scores(rlx.load("algorithm", "dpo"), task)
    require_scores(replace(rlx.load("algorithm", "online_dpo"), loss=rlx.load("loss", "odpo")), task)  # it scores its own pairs


def test_pairs_of_which_none_is_left_are_refused_with_the_reason(tmp_path):
    lines = [{"prompt": f"{n}+{n}=", "chosen": "1", "rejected": "1"} for n in range(40)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"none of the \d+ pairs to learn from of task .* is left: \d+ have the same completion"):
        assemble(compose("train", [*SMALL, "task=preference_file", f"task.path={file}"]))
