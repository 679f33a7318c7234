"""Runs of one to three ranks, whole and split policies, in processes that are started once: their figures and checkpoints."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.parallel.session import Asked, session
from tests.training.conftest import SMALL, metrics, record, reproducible

pytestmark = pytest.mark.whole
SHORT = [word for word in SMALL if not word.startswith(("algorithm.", "num_steps", "eval_every"))]
SHORT += ["num_steps=2", "eval_every=2", "checkpoint.keep_last=9", "parallel.timeout=100"]
EQUAL = {  # runs whose figures are those of one process
    "dpo": ["algorithm.pairs_per_step=5"],
    "grpo": ["algorithm=custom_grpo", "algorithm.prompts_per_step=3", "algorithm.group_size=2"],
    "adapter": ["policy/adapter=lora"],
    "moving": ["algorithm=dpo", "loss=tr_dpo", "loss.modifiers.reference.every_steps=1"],
}
WHOLE_ONLY = {
    "combined": [
        "algorithm=hybrid",
        "algorithm/combine=pcgrad",
        "algorithm.dpo.pairs_per_step=3",
        "algorithm.grpo.prompts_per_step=3",
    ]
}
TALK = ["policy=tiny_untrained", "policy.hidden_size=16", "evaluation.num_prompts=8", "logger=[]", "threads=1", "num_steps=2"]
TALK += ["task=guess", "algorithm=ppo", "task.credit=turn", "eval_every=2", "parallel.timeout=60"]
FAULTY = """
import os
from dataclasses import dataclass

import numpy as np
import torch

from rlx.algorithm.custom_dpo import CustomDpo

class OneRankDiverges(CustomDpo):
    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        if os.environ["RANK"] == "1":
            for term in output.terms.values():
                term.values.data[0] = float("nan")
        return output

class Unseeded(CustomDpo):
    def draw(self, lab):
        batch = super().draw(lab)
        weights = torch.from_numpy(np.random.default_rng().random(len(batch)))
        return batch.with_weights(**{**batch.weights, "preference": weights / weights.sum()})
"""
REFUSED = {
    "muon": ["optimizer=muon"],
    "adafactor": ["optimizer=adafactor"],
    "combined_refused": WHOLE_ONLY["combined"],
    "merged": ["policy/adapter=lora", "export.path=exported", "export.merge=true"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module")
def done(place):
    asked = {}

    def begin(name, ranks, mode, *words, without=""):
        short = [word for word in SHORT if word != without]
        asked[name] = Asked(ranks, [*short, f"parallel={mode}", *words, f"hydra.run.dir={place / name}"])

    def go_on(name, ranks, mode, steps):
        asked[f"{name} to {steps}"] = Asked(
            ranks, [f"resume={place / name}", f"num_steps={steps}", f"ranks={ranks}", f"parallel={mode}"]
        )

    for name, words in {**EQUAL, **WHOLE_ONLY}.items():
        begin(f"{name}_alone", 1, "replicated", *words)
        begin(f"{name}_replicated", 2, "replicated", *words)
    for name, words in EQUAL.items():
        begin(f"{name}_sharded", 2, "sharded", *words)
    for mode in ("replicated", "sharded"):
        begin(f"dpo_again_{mode}", 2, mode, *EQUAL["dpo"])
    go_on("dpo_again_replicated", 1, "replicated", 3)
    go_on("dpo_again_replicated", 3, "replicated", 4)
    begin("changing", 2, "sharded", "algorithm=ppo", "algorithm.prompts_per_step=3", "precision=bfloat16")
    go_on("changing", 3, "sharded", 3)
    go_on("changing", 1, "replicated", 4)
    for name, words in REFUSED.items():
        begin(name, 2, "sharded", *words)
    begin("late", 2, "replicated", "max_seconds=1e-6", "num_steps=50")
    rows = [{"prompt": f"{number}+1=", "chosen": "9", "rejected": "1"} for number in range(40)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = ["task=preference_file", f"task.path={place / 'pairs.jsonl'}", "optimizer.lr=0.01"]
    begin("reached", 2, "sharded", *pairs, "stop_at_score=0.9", "num_steps=50", "eval_every=1", without="task.max_operand=20")
    for mode, ranks in (("alone", 1), ("replicated", 2), ("sharded", 2)):
        where = [f"parallel={mode}"] if ranks > 1 else []
        asked[f"talk_{mode}"] = Asked(ranks, [*TALK, *where, f"hydra.run.dir={place / f'talk_{mode}'}"])
    (place / "faulty.py").write_text(FAULTY)
    for name in ("OneRankDiverges", "Unseeded"):
        begin(name, 2, "replicated", f"algorithm=faulty.{name}", "algorithm.pairs_per_step=8")
    return session(place, asked)


def close(one, other):
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            if not name.startswith("time/"):
                assert theirs[name] == pytest.approx(mine[name], rel=2e-5, abs=2e-5), name


@pytest.mark.parametrize("name", EQUAL)
def test_a_policy_split_over_two_ranks_trains_like_one_process(place, done, name):
    assert [done[f"{name}_{how}"].code for how in ("alone", "sharded")] == [0, 0], done[f"{name}_sharded"].said
    close(metrics(place / f"{name}_alone"), metrics(place / f"{name}_sharded"))


@pytest.mark.parametrize("name", [*EQUAL, *WHOLE_ONLY])
def test_two_ranks_with_whole_policies_train_like_one_process(place, done, name):
    assert [done[f"{name}_{how}"].code for how in ("alone", "replicated")] == [0, 0], done[f"{name}_replicated"].said
    close(metrics(place / f"{name}_alone"), metrics(place / f"{name}_replicated"))


@pytest.mark.parametrize("how", ["replicated", "sharded"])
def test_conversations_give_the_numbers_of_one_process(place, done, how):
    assert [done[f"talk_{how}"].code, done["talk_alone"].code] == [0, 0], done[f"talk_{how}"].said
    alone, together = (metrics(place / f"talk_{one}")[-1] for one in ("alone", how))
    assert alone["train/turns"] > 1
    for key in ("train/loss", "train/grad_norm", "train/reward_mean", "train/turns", "eval/reward", "eval/kl", "eval/turns"):
        assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-5), key
    samples = [(place / f"talk_{one}" / "samples.jsonl").read_text() for one in ("alone", how)]
    assert samples[0] == samples[1]


@pytest.mark.parametrize("mode", ["replicated", "sharded"])
def test_the_same_command_twice_gives_the_same_bits(place, done, mode):
    assert done[f"dpo_again_{mode}"].code == 0
    assert reproducible(place / f"dpo_again_{mode}")[:3] == reproducible(place / f"dpo_{mode}")


def test_a_run_goes_on_with_another_number_of_ranks(place, done):
    name = "dpo_again_replicated"
    assert [done[f"{name} to {steps}"].code for steps in (3, 4)] == [0, 0], done[f"{name} to 4"].said
    assert [line["step"] for line in metrics(place / name)] == [0, 1, 2, 3, 4]
    assert [resumed["ranks"] for resumed in record(place / name)["resumed"]] == [1, 3]


def test_the_weights_of_a_split_policy_are_written_whole(place, done):
    assert done["dpo_sharded"].code == 0
    one, two = (load_file(place / f"dpo_{how}/checkpoint/step_2/model.safetensors") for how in ("alone", "sharded"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=2e-5)


def test_a_split_run_goes_on_whole_and_split_with_other_numbers_of_ranks(place, done):
    assert [done[name].code for name in ("changing", "changing to 3", "changing to 4")] == [0, 0, 0], done["changing to 3"].said
    assert [line["step"] for line in metrics(place / "changing")] == [0, 1, 2, 3, 4]
    assert [resumed["ranks"] for resumed in record(place / "changing")["resumed"]] == [3, 1]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("muon", "optimizer Muon cannot update weights that are split"),
        ("adafactor", "optimizer Adafactor cannot update weights that are split"),
        ("combined_refused", "Hybrid asks for the gradient of each term"),
        ("merged", "export.merge=true needs a whole model"),
    ],
)
def test_what_is_not_built_for_split_weights_is_refused_by_name(done, name, word):
    assert done[name].code == 2
    assert word in done[name].said


def test_ranks_end_together_when_time_is_over_or_a_score_is_reached(place, done):
    assert done["late"].code == 0, done["late"].said
    assert [line["step"] for line in metrics(place / "late")] == [0, 1]
    assert done["reached"].code == 0, done["reached"].said
    assert 0 < metrics(place / "reached")[-1]["step"] < 50


def test_an_error_of_one_rank_is_raised_on_all_and_names_it(place, done):
    assert done["OneRankDiverges"].code == 1, done["OneRankDiverges"].said
    told = record(place / "OneRankDiverges")["error"]["message"]
    assert told.startswith("step 1: rank 1: term")
    assert "is not finite on 1 of 4 rows" in told
    examples = (place / "OneRankDiverges" / "nonfinite_examples.jsonl").read_text().splitlines()
    assert json.loads(examples[0])["prompt"]


def test_draws_that_differ_between_ranks_are_refused(done):
    assert done["Unseeded"].code == 1, done["Unseeded"].said
    assert "draw of Unseeded gave rank 1 another batch than rank 0 (its weights.preference)" in done["Unseeded"].said
