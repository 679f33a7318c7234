import dataclasses

import numpy as np
import pytest

import rlx
from rlx.data.preferences import PairBatch
from rlx.errors import DataError
from rlx.policy.reference import Reference
from rlx.task.base import content_digest
from rlx.training.evaluate import Evaluator
from tests.algorithm.conftest import lab, policy_and_reference  # noqa: F401
from tests.training.conftest import SMALL, metrics


def evaluator(lab, **changes):  # noqa: F811
    settings = {"num_prompts": 20, "samples_per_prompt": 2, "num_pairs": 20, "num_shown": 2, "micro_batch": None}
    return Evaluator(task=lab.task, reference=lab.reference, sampler=lab.sampler, **{**settings, **changes})


def test_the_untouched_policy_is_at_the_reference(lab):  # noqa: F811
    figures = evaluator(dataclasses.replace(lab, reference=Reference(lab.policy)))(lab.policy).metrics
    assert figures["kl"] == pytest.approx(0.0, abs=1e-9)
    assert figures["pair_accuracy"] == 0.5
    assert figures["log_ratio_margin"] == pytest.approx(0.0, abs=1e-9)


def test_a_policy_that_moved_is_away_from_it(lab):  # noqa: F811
    figures = evaluator(lab)(lab.policy).metrics
    assert figures["kl"] > 0.01
    assert figures["pair_accuracy"] != 0.5
    assert figures["score"] == figures["accuracy"]
    assert 0 < figures["entropy"] < 4.7


def test_the_same_policy_measures_the_same_whatever_the_micro_batch(lab):  # noqa: F811
    first, second, third = (evaluator(lab, micro_batch=size)(lab.policy).metrics for size in (None, None, 3))
    assert first == second
    assert third == pytest.approx(first, rel=1e-6)


def test_rewards_are_counted_over_prompts(lab, monkeypatch):  # noqa: F811
    monkeypatch.setattr(type(lab.task), "reward", lambda self, prompt, completion: {"reward": float(prompt.text[0] in "12")})
    evaluation = evaluator(lab, num_shown=3)(lab.policy)
    share = sum(prompt.text[0] in "12" for prompt in lab.task.held_out_prompts()[:20]) / 20
    assert evaluation.metrics["accuracy"] == evaluation.metrics["reward"] == share
    assert evaluation.metrics["reward_standard_error"] == pytest.approx((share * (1 - share) / 19) ** 0.5)
    prompts = [prompt.text for prompt in lab.task.held_out_prompts()[:20]]
    assert [row["prompt"] for row in evaluation.samples] == prompts[:3]
    assert [row["prompt"] for row in evaluation.completions] == prompts
    assert evaluation.completions[1]["completion"] == evaluation.samples[1]["completion"]
    assert evaluation.digest == content_digest(prompts) != evaluator(lab, num_prompts=19)(lab.policy).digest
    assert evaluator(lab, num_shown=0)(lab.policy).completions == ()


def test_of_two_pairs_with_one_prompt_each_has_its_completion(lab, tmp_path):  # noqa: F811
    rows = [f'{{"prompt": "{i // 2}+{i // 2}=", "chosen": "{i}", "rejected": "{i + 1}"}}' for i in range(80)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    task = rlx.load("task", "preference_file", path=str(tmp_path / "pairs.jsonl"), max_new_tokens=3, held_out=0.25)
    evaluation = evaluator(dataclasses.replace(lab, task=task))(lab.policy)
    prompts = [pair.prompt for pair in task.held_out_pairs()[: len(evaluation.answers)]]
    assert [row["prompt"] for row in evaluation.completions] == prompts
    assert len(set(prompts)) < len(prompts)


def test_a_task_with_nothing_held_out_has_no_score(lab, monkeypatch):  # noqa: F811
    for name in ("held_out_pairs", "held_out_prompts"):
        monkeypatch.setattr(type(lab.task), name, lambda self: ())
    with pytest.raises(DataError, match="nothing is held out"):
        evaluator(lab)(lab.policy)


def test_a_preference_task_is_scored_by_its_pairs(lab, tmp_path):  # noqa: F811
    rows = "\n".join(f'{{"prompt": "{i}+{i}=", "chosen": "{2 * i}", "rejected": "{2 * i + 1}"}}' for i in range(40))
    (tmp_path / "pairs.jsonl").write_text(rows)
    task = rlx.load("task", "preference_file", path=str(tmp_path / "pairs.jsonl"), max_new_tokens=3)
    evaluation = evaluator(dataclasses.replace(lab, task=task))(lab.policy)
    figures = evaluation.metrics
    assert figures["score"] == figures["pair_accuracy"] == pytest.approx(np.mean(evaluation.answers))
    assert set(evaluation.answers) <= {0.0, 0.5, 1.0}
    assert len(evaluation.completions) == len(evaluation.answers)
    greedy = {row["prompt"]: row["completion"] for row in evaluation.samples}
    assert all(greedy.get(row["prompt"], row["completion"]) == row["completion"] for row in evaluation.completions)
    assert "reward" not in figures
    assert figures["completion_length"] <= 3


def test_the_prompt_of_a_held_out_pair_that_is_too_long_is_not_completed_either(lab, tmp_path):  # noqa: F811
    prompts = [f"{i}+{i}=" for i in range(20)] + [f"{i}" * 600 for i in range(1, 9)]
    rows = "\n".join(f'{{"prompt": "{prompt}", "chosen": "2", "rejected": "3"}}' for prompt in prompts)
    (tmp_path / "pairs.jsonl").write_text(rows)
    task = rlx.load("task", "preference_file", path=str(tmp_path / "pairs.jsonl"), max_new_tokens=3, held_out=0.5)
    held_out = [prompt.text for prompt in task.held_out_prompts()]
    assert any(len(text) > 512 for text in held_out)
    evaluation = evaluator(dataclasses.replace(lab, task=task), num_shown=20)(lab.policy)
    assert [row["prompt"] for row in evaluation.samples] == [text for text in held_out if len(text) <= 512]


def test_demonstrations_are_scored_by_the_mean_log_probability_of_a_learned_token(lab, tmp_path):  # noqa: F811
    rows = "\n".join(f'{{"prompt": "{i}=", "completion": "{"7" * (i % 5 + 1)}"}}' for i in range(60))
    (tmp_path / "demonstrations.jsonl").write_text(rows)
    task = rlx.load("task", "demonstration_file", path=str(tmp_path / "demonstrations.jsonl"), max_new_tokens=3, held_out=0.5)
    evaluation = evaluator(dataclasses.replace(lab, task=task))(lab.policy)
    figures, answers = evaluation.metrics, evaluation.answers
    held_out = {pair.prompt: lab.policy.pair_tokenizer([pair]) for pair in task.held_out_pairs()[:20]}
    alone = {
        prompt: lab.policy.token_logprobs(pairs.sequences.only(slice(0, 1))).double().sum().item()
        for prompt, pairs in held_out.items()
    }
    tokens = sum(len(pairs.sequences.completions[0][0]) for pairs in held_out.values())
    assert figures["score"] == figures["log_likelihood"] == pytest.approx(sum(alone.values()) / tokens, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(np.exp(-figures["score"]))
    assert np.mean(answers) == pytest.approx(figures["score"])
    assert figures["score_standard_error"] == pytest.approx(np.std(answers, ddof=1) / 20**0.5)
    assert {"pair_accuracy", "log_ratio_margin"}.isdisjoint(figures)
    shown = [row["prompt"] for row in evaluation.completions]
    assert answers == pytest.approx([20 * alone[prompt] / tokens for prompt in shown], rel=1e-4)
    assert evaluator(dataclasses.replace(lab, task=task), micro_batch=3)(lab.policy).metrics == pytest.approx(figures, rel=1e-6)


def test_an_answer_and_its_pair_stand_at_one_place_whatever_their_lengths(lab, tmp_path):  # noqa: F811
    rows = "\n".join(
        f'{{"prompt": "{i}=", "chosen": "{"7" * (i % 7 + 1)}", "rejected": "{"8" * (i % 3 + 1)}"}}' for i in range(90)
    )
    (tmp_path / "pairs.jsonl").write_text(rows)
    task = rlx.load("task", "preference_file", path=str(tmp_path / "pairs.jsonl"), max_new_tokens=3, held_out=0.5)
    evaluation = evaluator(dataclasses.replace(lab, task=task))(lab.policy)
    assert 0 < np.mean(evaluation.answers) < 1
    for row, answer in zip(evaluation.completions, evaluation.answers, strict=True):
        pair = next(pair for pair in task.held_out_pairs() if pair.prompt == row["prompt"])
        batch = PairBatch.of(lab.policy.pair_tokenizer([pair]), [0])
        ours, theirs = lab.policy.pair_logprobs(batch), lab.reference.pair_logprobs(batch)
        margin = (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)
        assert answer == float(margin > 0)


def test_single_completions_are_scored_by_couples_of_a_desirable_and_an_undesirable_one(lab, tmp_path):  # noqa: F811
    rows = "\n".join(f'{{"prompt": "{i}+{i}=", "completion": "{2 * i}", "label": {i % 3 % 2}}}' for i in range(60))
    (tmp_path / "labelled.jsonl").write_text(rows)
    task = rlx.load("task", "labelled_file", path=str(tmp_path / "labelled.jsonl"), max_new_tokens=3, held_out=0.5)
    figures = evaluator(dataclasses.replace(lab, task=task))(lab.policy).metrics
    batch = PairBatch.of(lab.policy.pair_tokenizer(task.held_out_pairs()), range(20))
    ours, theirs = lab.policy.pair_logprobs(batch), lab.reference.pair_logprobs(batch)
    ratios = (ours.chosen_sum - theirs.chosen_sum + ours.rejected_sum - theirs.rejected_sum).tolist()  # one of both is there
    good = [ratio for ratio, (desirable, _) in zip(ratios, batch.has_label.tolist(), strict=True) if desirable]
    bad = [ratio for ratio, (desirable, _) in zip(ratios, batch.has_label.tolist(), strict=True) if not desirable]
    assert min(len(good), len(bad)) >= 5
    assert figures["score"] == sum(a > b for a in good for b in bad) / (len(good) * len(bad))
    assert figures["log_ratio_chosen"] == pytest.approx(sum(good) / len(good), abs=1e-6)
    assert evaluator(dataclasses.replace(lab, task=task), micro_batch=3)(lab.policy).metrics == pytest.approx(figures, rel=1e-6)


def test_kto_learns_from_single_completions(rlx_run, tmp_path):
    """Desirable is what ends in 1: a start that knows nothing learns to tell."""
    rows = "\n".join(f'{{"prompt": "{i}=", "completion": "{i % 2}{i % 2}", "label": {i % 2}}}' for i in range(60))
    (tmp_path / "labelled.jsonl").write_text(rows)
    small = [setting for setting in SMALL if not setting.startswith("task.")]
    small += ["algorithm=dpo", "task=labelled_file", f"task.path={tmp_path / 'labelled.jsonl'}", "optimizer.lr=0.02"]
    for loss in ("kto", "kto_pair"):
        code, run, printed = rlx_run(*small, f"loss={loss}", "loss.beta=1", small=False)
        assert code == 0, printed
        assert [line["eval/score"] for line in metrics(run) if "eval/score" in line] == [0.5, 1.0, 1.0]


def test_sft_learns_from_demonstrations_alone(rlx_run, tmp_path):
    talk = '{"messages": [%s]}'
    turns = '{"role": "user", "content": "%d="}, {"role": "assistant", "content": "77"}'
    (tmp_path / "talks.jsonl").write_text("\n".join(talk % ", ".join([turns % n, turns % (n + 1)]) for n in range(60)))
    small = [setting for setting in SMALL if not setting.startswith("task.")]
    small += ["algorithm=sft", "task=demonstration_file", f"task.path={tmp_path / 'talks.jsonl'}", "optimizer.lr=0.02"]
    code, run, printed = rlx_run(*small, small=False)
    assert code == 0, printed
    assert "log_likelihood: mean log-probability of a learned token" in printed
    first, *_, last = [line for line in metrics(run) if "eval/score" in line]
    assert first["eval/score"] < last["eval/score"] < 0
    assert last["eval/perplexity"] < first["eval/perplexity"]
