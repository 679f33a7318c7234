"""Losses with state in whole runs."""

import json

import pytest
import torch.nn.functional as F

from rlx.loss import policy_gradient_loss, preference_loss, running_mean
from tests.training.conftest import metrics, reproducible

HERE = "tests.training.test_loss_state"
pytestmark = pytest.mark.whole


@preference_loss(state={"usual": running_mean("margin", decay="decay")})
def kept(margin, usual, *, beta=0.5, decay=0.5):
    """-log σ(β (Δ - usual))."""
    return -F.logsigmoid(beta * (margin - usual))


@policy_gradient_loss(state={"baseline": running_mean("advantages", decay=0.5, start=0.25)})
def kept_tokens(ratio, advantages, baseline):
    """-ρ (A - baseline)."""
    return -ratio * (advantages - baseline)


def last_state(run):
    return json.loads(
        max((run / "checkpoint").glob("step_*/trainer.json"), key=lambda path: path.stat().st_mtime_ns).read_text()
    )["loss_state"]


def test_a_resumed_run_is_the_unbroken_one_and_a_new_one_begins_at_the_start(rlx_run):
    _, whole, _ = rlx_run(f"loss={HERE}.kept")
    values = [line["train/state/usual"] for line in metrics(whole)[1:]]
    assert values[0] == 0.0
    assert len(set(values[1:])) == len(values[1:])  # the first margin is that of a policy that is its reference: 0
    margins = [line["train/margin"] / 0.5 for line in metrics(whole)[1:]]
    for before, margin, after in zip(values, margins, values[1:], strict=False):
        assert after == pytest.approx(0.5 * before + 0.5 * margin, abs=1e-6)
    _, run, _ = rlx_run(f"loss={HERE}.kept", "num_steps=3", "checkpoint.every=1")
    assert metrics(run)[1]["train/state/usual"] == 0.0
    assert rlx_run(f"loss={HERE}.kept", f"resume={run}", "num_steps=6", small=False)[0] == 0
    assert reproducible(run) == reproducible(whole)
    assert last_state(run) == last_state(whole)


def test_micro_batches_do_not_matter(rlx_run):
    _, whole, _ = rlx_run(f"loss={HERE}.kept", "num_steps=3")
    _, cut, _ = rlx_run(f"loss={HERE}.kept", "num_steps=3", "micro_batch=3")
    assert last_state(cut) == pytest.approx(last_state(whole), rel=1e-4)


def test_terms_with_one_loss_have_states_of_their_own(rlx_run):
    small = ["algorithm.grpo.prompts_per_step=2", "algorithm.grpo.group_size=4", "algorithm.dpo.pairs_per_step=8", "num_steps=3"]
    losses = [f"loss@algorithm.dpo.loss={HERE}.kept", f"loss@algorithm.grpo.loss={HERE}.kept_tokens"]
    sizes = ["policy=tiny_untrained", "logger=[]", "threads=1", "evaluation.num_prompts=4", "evaluation.num_pairs=4"]
    code, run, said = rlx_run("algorithm=hybrid", *small, *losses, *sizes, small=False)
    assert code == 0, said
    assert set(last_state(run)) == {"terms.dpo.algorithm.loss/usual", "terms.grpo.algorithm.loss/baseline"}
    assert metrics(run)[1]["train/grpo/state/baseline"] == 0.25
    assert metrics(run)[3]["train/dpo/state/usual"] != 0.0


def test_a_changed_state_in_a_checkpoint_is_refused(rlx_run):
    _, run, _ = rlx_run(f"loss={HERE}.kept", "num_steps=3", "checkpoint.every=1")
    place = run / "checkpoint" / "step_3" / "trainer.json"
    place.write_text(place.read_text().replace('"loss/usual": ', '"loss/usual": 1'))
    code, _, said = rlx_run(f"loss={HERE}.kept", f"resume={run}", "num_steps=6", small=False)
    assert code == 2
    assert "its trainer's state was changed" in said


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_policy_gradient_with_a_running_baseline_is_resumed_as_the_unbroken_one(rlx_run, ahead):
    small = ["algorithm=custom_grpo", "algorithm.prompts_per_step=2", "algorithm.group_size=4", "algorithm.minibatches=2"]
    small = [*small, "algorithm/advantage=raft", f"loss={HERE}.kept_tokens", f"rollout.ahead={ahead}", "num_steps=4", "logger=[]"]
    sizes = ["policy=tiny_untrained", "threads=1", "evaluation.num_prompts=4", "eval_every=2", "rollout.max_new_tokens=4"]
    _, whole, _ = rlx_run(*small, *sizes, small=False)
    _, run, _ = rlx_run(*small, *sizes, "num_steps=2", "checkpoint.every=1", small=False)
    assert rlx_run(f"loss={HERE}.kept_tokens", f"resume={run}", "num_steps=4", small=False)[0] == 0
    assert reproducible(run) == reproducible(whole)
    assert last_state(run) == last_state(whole)
