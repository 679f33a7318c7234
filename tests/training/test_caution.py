"""Values that would ruin a run in silence: refused, or said in a line when it begins."""

import json

import pytest

pytestmark = pytest.mark.whole

GRPO = ("algorithm=custom_grpo", "~algorithm.pairs_per_step")
PAIRS = ("task=preference_file", "task.path=pairs.jsonl", "~task.max_operand")
DEMONSTRATIONS = (
    "algorithm=sft",
    "task=demonstration_file",
    "task.path=pairs.jsonl",
    "task.completion_key=chosen",
    "~task.max_operand",
)
IDLE = ("algorithm=hybrid", "algorithm.dpo_weight=0", "algorithm.dpo.pairs_per_step=16000", "~algorithm.pairs_per_step")
REFUSED = [
    (("stop_at_score=2",), "never reached: accuracy is at most 1; it is a share, did you mean 0.02?"),
    (("stop_at_score=-1",), "reached before training"),
    (("stop_at_score=nan",), "stop_at_score=nan"),
    (("max_seconds=0",), "max_seconds=0"),
    (("max_seconds=-1",), "max_seconds=-1"),
    (("max_seconds=nan",), "max_seconds=nan"),
    (("loss.beta=nan",), "beta"),
    (("loss.beta=0",), "beta"),
    (("loss.beta=-1",), "beta"),
    (("optimizer.lr=nan",), "lr"),
    (("optimizer.lr=-1",), "lr"),
    (("optimizer.eps=nan",), "eps"),
    (("optimizer=sgd", "optimizer.momentum=1"), "optimizer.momentum=1: it must be a finite number at least 0 and below 1"),
    (("algorithm.sft_loss_weight=nan",), "sft_loss_weight"),
    (("algorithm.max_grad_norm=0",), "max_grad_norm"),
    (("algorithm.max_grad_norm=nan",), "max_grad_norm"),
    (("scheduler.warmup_steps=-1",), "warmup_steps"),
    (("evaluation.num_prompts=0",), "num_prompts"),
    (("algorithm.pairs_per_step=0",), "pairs_per_step"),
    ((*GRPO, "task.full_reward=nan"), "full_reward"),
    ((*GRPO, "task.full_reward=5"), "full_reward=5 is never reached: the rewards add up to at most 1"),
    ((*GRPO, "task.rewards.exact_match.weight=1e30"), "dominates everything else"),
    ((*GRPO, "task.rewards.exact_match.weight=nan"), "weight"),
    ((*GRPO, "rollout.temperature=0"), "temperature"),
    ((*GRPO, "algorithm.updates_per_batch=0"), "updates_per_batch"),
    ((*GRPO, "algorithm.group_size=1"), "group_size"),
    ((*PAIRS, "task.chosen_key=prompt"), "the column 'prompt' is read as prompt and as chosen"),
    ((*PAIRS, "task.rejected_key=chosen"), "the column 'chosen' is read as rejected and as chosen"),
]
SAID = [
    (("optimizer.lr=0",), "which is negligible: the learning rate is 0"),
    (("optimizer.eps=1e10",), "optimizer.eps=1e+10 is far from what is usual"),
    (("optimizer.eps=1e10",), "the first step moved the weights by"),
    (("loss.beta=1e10",), "loss.beta=1e+10 is far from what is usual"),
    (("loss.beta=1e10",), "is clipped to"),
    (("loss.beta=1e-12",), "loss.beta=1e-12 is far from what is usual"),
    (("algorithm.max_grad_norm=1e-12",), "is clipped to"),
    (("algorithm.max_grad_norm=1e-12",), "the first step moved the weights by"),
    (("scheduler.warmup_steps=500",), "is longer than the run of 3 steps: the learning rate ends at 0.6% of optimizer.lr"),
    (("stop_at_score=1e-9", "policy=tiny"), "was reached before training: no step was made"),
    (("task.label_noise=0.5",), "the pairs say nothing of which completion is better"),
    (("algorithm.preference_loss_weight=1e-30", "algorithm.sft_loss_weight=0"), "none of the last 3 steps had a gradient"),
    ((*GRPO, "task.reward_noise=1"), "the rewards say nothing"),
    ((*GRPO, "algorithm.kl_in_reward=1e9"), "algorithm.kl_in_reward=1e+09 dominates the rewards"),
    ((*GRPO, "policy.max_prompt_length=1"), "policy.max_prompt_length=1: 256 of 256 inspected prompts lose"),
    (("evaluation.num_prompts=1",), "measured on 1 held-out prompts"),
    ((*GRPO, "task.rewards.exact_match.weight=-1", "task.full_reward=null"), "worth less the better exact_match finds it"),
    ((*GRPO, "loss.clip_low=0", "loss.clip_high=0"), "loss.clip_low and loss.clip_high are 0"),
    ((*GRPO, "algorithm.updates_per_batch=50"), "overfit it"),
    ((*GRPO, "rollout.ahead=1", "loss=reinforce"), "loss reinforce reads no importance ratio that would correct for it"),
    ((*GRPO, "task.max_new_tokens=1", "rollout.max_new_tokens=null"), "answers have more tokens than a completion may have (1)"),
    ((*PAIRS, "algorithm.pairs_per_step=1000"), "algorithm.pairs_per_step=1000 of"),
    ((*DEMONSTRATIONS, "algorithm.pairs_per_step=40"), "of 37 demonstrations: a step learns from some twice"),
    ((*DEMONSTRATIONS, "algorithm.pairs_per_step=100"), "3 held-out demonstrations; the task has no more: raise task.held_out"),
    (("task=preference_file", "task.path=evil.jsonl", "~task.max_operand"), "have the role evil, which no chat model knows"),
]  # fmt: skip
SHORT = ("num_steps=3", "eval_every=null", "checkpoint.every=null")


@pytest.fixture
def run(rlx_run, tmp_path):
    """What a run with these values says; `~key` takes a small setting away."""
    rows = [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": str(i + 2)} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    user, evil = {"role": "user", "content": "1+1"}, {"role": "evil", "content": "2"}
    chat = [{"prompt": [{**user, "content": f"{i}+1"}, evil], "chosen": [{"role": "assistant", "content": "2"}],
             "rejected": [{"role": "assistant", "content": "3"}]} for i in range(40)]  # fmt: skip
    (tmp_path / "evil.jsonl").write_text("\n".join(map(json.dumps, chat)))

    def call(*values):
        from tests.training.conftest import SMALL

        without = {value[1:] for value in values if value.startswith("~")}
        given = [value for value in values if not value.startswith("~")]
        keys = {value.partition("=")[0] for value in (*given, *SHORT)} | without
        if any(value.startswith("policy=") for value in given):
            keys |= {key.partition("=")[0] for key in SMALL if key.startswith("policy.")}
        small = [value for value in SMALL if value.partition("=")[0] not in keys]
        return rlx_run(*small, *SHORT, *given, small=False)

    return call


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_can_never_be_meant_is_refused(run, values, words):
    code, _, said = run(*values)
    assert code == 2, said
    assert words in said


@pytest.mark.parametrize(("values", "words"), SAID, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_the_rest_is_said(run, values, words):
    code, _, said = run(*values)
    assert code == 0, said
    assert words in " ".join(said.split())


@pytest.mark.parametrize("values", [(), (*GRPO, "policy=tiny"), PAIRS, ("optimizer.lr=1e-6", "scheduler.warmup_steps=2")])
def test_usual_values_are_not_talked_about(run, values):
    code, _, said = run(*values, "evaluation.num_prompts=40", "evaluation.num_pairs=40")
    assert code == 0, said
    cautions = [line for line in said.splitlines() if line.startswith("warning:") and "held-out" not in line]
    assert cautions == []


def test_a_term_that_is_never_drawn_is_not_talked_about(run):
    code, _, said = run(*IDLE, "algorithm.grpo.prompts_per_step=2000")
    assert code == 0, said
    assert ["pairs_per_step=16000 of" in said, "algorithm.grpo.prompts_per_step=2000 of" in said] == [False, True]
