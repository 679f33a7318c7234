"""TRL's GRPO with `tools=` beside `task=tool_file`: the same tokens of a conversation, and the same of them learned."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import pytest
import torch

import rlx
from rlx.rollout.draw import sample_groups
from rlx.task.tool.calculator import calculator
from tests.rollout.stand_in import Bench
from tests.task.tool.talking import Scripted, policy_of

trl = pytest.importorskip("trl", reason="make peers installs TRL in an environment of its own and runs these")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "12+34"}}\n</tool_call>'
SCRIPTS = {
    "a call": (CALL, "46"),
    "two calls in a turn": (f"{CALL}\n{CALL}", "46"),
    "words, a call, another one": (f"Let me see.\n{CALL}", CALL, "It is 46."),
    "no call": ("46",),
}
ADVANTAGES = (0.3, -1.0)  # of two equal conversations, so that they do not cancel
FAMILIES = ("qwen2_5", "qwen3_instruct_2507")


def without_return_type() -> Callable[..., str]:
    """The calculator as TRL is given it: its schemas say what a tool returns, and rlx's do not."""
    twin = FunctionType(calculator.__code__, calculator.__globals__, "calculator")
    twin.__doc__, twin.__annotations__ = calculator.__doc__, {"expression": str}
    return twin


def template_of(family: str) -> str:
    """A family's template, by whose text TRL knows how to read its calls."""
    return (Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text()


@dataclass(frozen=True)
class Learned:
    """The tokens of a prompt and of what follows, which of these are learned, and the gradient of GRPO's loss."""

    prompt: list[int]
    tokens: list[int]
    learned: list[bool]
    gradient: torch.Tensor


def gradient_of(loss: torch.Tensor, policy) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, policy.parameters())])


def ours(policy, task, script: tuple[str, ...]) -> Learned:
    batch = sample_groups(Bench(policy, Scripted.of(*script), task), [0], group_size=2)
    loss = rlx.load("loss", "grpo")
    ours = policy.token_logprobs(batch.sequences)
    advantages, mask = torch.tensor(ADVANTAGES)[None, :, None].expand_as(ours), batch.loss_mask
    values = loss(ours, ours.detach(), advantages, mask, None)
    total = (loss.weights(mask) * values).sum()
    sequences = batch.sequences
    tokens, learned = sequences.completions[0][1].tolist(), sequences.learned[0][1].tolist()
    return Learned(sequences.prompts[0].tolist(), tokens, learned, gradient_of(total, policy))


def theirs(policy, task, script: tuple[str, ...], place: Path) -> Learned:
    """Of a GRPOTrainer whose model says what the script says."""
    from datasets import Dataset

    data = Dataset.from_list([{"prompt": [{"role": "user", "content": task.prompts()[0].text}]}] * 2)
    settings = trl.GRPOConfig(
        output_dir=str(place), use_cpu=True, bf16=False, per_device_train_batch_size=2, num_generations=2, loss_type="grpo",
        max_completion_length=1000, report_to=[], gradient_checkpointing=False, beta=0.0,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        policy.model, lambda completions, **_: [0.0] * len(completions), settings, data,
        processing_class=policy.tokenizer, tools=[without_return_type()],
    )  # fmt: skip
    turns = iter(script)

    def says(prompt_ids, *_, **__):
        ids = said(policy, [next(turns)])
        return [list(ids) for _ in prompt_ids], None

    trainer._generate_single_turn = says
    made = trainer._generate_and_score_completions([dict(row) for row in data])
    loss = trainer.compute_loss(trainer.model, {**made, "advantages": torch.tensor(ADVANTAGES)})
    prompt = made["prompt_ids"][1][made["prompt_mask"][1].bool()].tolist()
    kept = made["completion_mask"][1].bool()
    learned = made["tool_mask"][1][kept].bool().tolist()
    return Learned(prompt, made["completion_ids"][1][kept].tolist(), learned, gradient_of(loss, policy))


def said(policy, texts) -> list[int]:
    """The tokens of the assistant's turns."""
    end = policy.text.turn_end_id
    return [token for text in texts for token in (*policy.tokenizer(text, add_special_tokens=False)["input_ids"], end)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_tokens_are_learned_with_the_same_gradient(family, name, tmp_path):
    file = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"What is {number}+34?", "answer": str(number + 34)} for number in (12, 13)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = rlx.load("task", "tool_file", path=str(file))
    policy = policy_of("qwen2_5", template_of(family))
    mine, peer = ours(policy, task, SCRIPTS[name]), theirs(policy, task, SCRIPTS[name], tmp_path)
    assert mine.tokens == peer.tokens
    assert mine.learned == peer.learned
    assert mine.prompt == peer.prompt
    results = policy.tokenizer.decode([token for token, own in zip(mine.tokens, mine.learned, strict=True) if not own])
    assert results.count("<tool_response>") == "".join(SCRIPTS[name]).count("</tool_call>")
    assert [token for token, own in zip(mine.tokens, mine.learned, strict=True) if own] == said(policy, SCRIPTS[name])
    assert mine.gradient.norm() > 0
    assert (mine.gradient - peer.gradient).norm() <= 1e-5 * mine.gradient.norm()
