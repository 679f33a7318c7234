"""Conversations as completions: tokens as sampled, the environment's masked, rewards where they were earned."""

import functools
import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlx.data.continuation import encode_continuation
from rlx.data.tokens import TextEncoder
from rlx.errors import TrainingError
from rlx.policy.base import Policy
from rlx.policy.tiny import load_tiny
from rlx.rollout.draw import greedy_rewards
from rlx.rollout.play import play
from rlx.seeding import Stream
from rlx.task.arithmetic import Arithmetic
from rlx.task.base import Prompt
from rlx.task.environment import Environment, Turn
from rlx.task.reward.base import Span
from rlx.task.reward.text import ExactMatch
from tests.data.test_conversation import tokenizer_of
from tests.rollout.stand_in import Bench, sampler_of
from tests.task.environments import Awaited, Chatting, Counting, TwoPlayers, task_of


@pytest.fixture(scope="module")
def tiny():
    return load_tiny()


@functools.cache
def policy_of(family):
    """A random model that often ends a turn, with the tokens and the chat template of a family."""
    tokenizer = tokenizer_of(family)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    policy = Policy(LlamaForCausalLM(config), tokenizer, name=family, text=TextEncoder(tokenizer))
    ends = [torch.tensor(policy.eos_token_ids)]
    with torch.no_grad():  # the ends become likely: their rows of the head point where the others point on average
        policy.model.lm_head.weight[ends[0]] *= 3
    return policy


def played(policy, task, *, rows=3, group_size=4, sampler=None, seed=0, **changes):
    prompts = task.prompts()[:rows]
    return play(
        task,
        policy,
        sampler or sampler_of(max_new_tokens=None),
        prompts,
        group_size=group_size,
        stream=Stream(seed),
        prompt_keys=range(len(prompts)),
        **changes,
    )


FAMILIES = ("chatml", "llama3", "phi3", "zephyr")


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_logprobs_of_every_turn_equal_a_training_forward(family):
    policy, task = policy_of(family), task_of(Chatting(), max_new_tokens=6)
    made = played(policy, task, rows=5, group_size=4)
    sequences, mask = made.rollout.sequences, made.rollout.sequences.completion_mask
    assert int((made.rollout.sequences.token_mask & ~mask).sum()) > 50  # the environment spoke
    assert max(len(spans) for group in made.turn_spans for spans in group) == 3
    with torch.no_grad():
        forward = policy.token_logprobs(sequences)
    assert float((forward - made.rollout.sampling_logprobs)[mask].abs().max()) < 1e-4
    assert not made.rollout.sampling_logprobs[~mask].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_are_those_sampled_and_the_context_that_of_the_template(family):
    policy, task = policy_of(family), task_of(Chatting(), max_new_tokens=6)
    made = played(policy, task)
    for row, group in enumerate(made.rollout.sequences.completions):
        for column, tokens in enumerate(group):
            talk, spans = made.conversations[row][column], made.turn_spans[row][column]
            learned = made.rollout.sequences.learned[row][column]
            assert [policy.decode(tokens[begin:end]) for begin, end in spans] == talk.turns
            assert learned.sum() == sum(end - begin for begin, end in spans)
            assert spans[-1][1] == len(tokens)  # a completion ends with the assistant's last token
            said = [message["content"] for message in talk.messages if message["role"] == "user"]
            for number, ((_, end), (begin, _)) in enumerate(itertools.pairwise(spans)):
                assert not learned[end:begin].any()
                ended = tokens[end - 1] in policy.eos_token_ids
                so_far = talk.messages[: 2 * number + 1]
                wanted = encode_continuation(
                    policy.text, talk.opening, so_far, [{"role": "user", "content": said[number]}], ended=ended
                )
                assert np.array_equal(tokens[end:begin], wanted)


def test_an_environment_of_one_turn_gives_the_completions_of_a_single_answer(tiny):
    class Once(Environment):
        def start(self, prompt, answer):
            self.answer = answer
            return prompt

        def step(self, completion):
            return Turn(reward=float(completion == self.answer), done=True)

    settings = {"name": "sums", "max_new_tokens": 6, "max_operand": 9, "label_noise": 0.0, "on_reward_error": "stop"}
    reward = ExactMatch(weight=1.0, ignore_case=False, pattern=None)
    single = Arithmetic(rewards={"exact_match": reward}, failed_reward=0.0, full_reward=None, **settings)
    once = task_of(Once(), max_new_tokens=6)
    object.__setattr__(once, "prompts", single.prompts)
    first, second = played(tiny, single), played(tiny, once)
    for group, same in zip(first.rollout.sequences.completions, second.rollout.sequences.completions, strict=True):
        assert all(map(np.array_equal, group, same))
    assert torch.equal(first.rollout.sampling_logprobs, second.rollout.sampling_logprobs)
    assert torch.equal(first.rollout.finished, second.rollout.finished)
    assert np.array_equal(first.rewards()["reward"], second.rewards()["reward"])


def test_sync_and_async_environments_give_the_same(tiny):
    first, second = (played(policy_of("chatml"), task_of(kind(), max_turns=3), rows=2) for kind in (Counting, Awaited))
    assert first.texts == second.texts
    assert np.array_equal(first.rewards()["reward"], second.rewards()["reward"])


def test_equal_runs_are_equal_and_an_environments_own_random_numbers_too():
    policy = policy_of("chatml")
    first, again, other = (played(policy, task_of(TwoPlayers()), seed=seed) for seed in (0, 0, 1))
    assert first.texts == again.texts != other.texts


def test_conversations_do_not_depend_on_the_others_of_a_draw():
    policy, task = policy_of("chatml"), task_of(Chatting(), max_new_tokens=6)
    whole, part = played(policy, task, rows=4), played(policy, task, rows=1)
    assert whole.texts[0] == part.texts[0]


def test_rewards_lie_at_the_tokens_where_they_were_earned():
    def spans(prompt, completion, *, turns, **columns):
        return [Span(10.0, 0, 1, turn=0)] if turns[0] else 0.0

    policy = policy_of("chatml")
    task = task_of(Chatting(), max_new_tokens=6, credit="turn", rewards={"spans": spans})
    made = played(policy, task)
    at_tokens, turns = made.token_rewards(policy), made.turns
    assert torch.allclose(at_tokens.sum(dim=-1).double(), torch.tensor(made.rewards()["reward"]))
    for row, group in enumerate(made.conversations):
        for column, talk in enumerate(group):
            for number, (begin, end) in enumerate(made.turn_spans[row][column]):
                assert set(turns[row, column, begin:end].tolist()) == {number}
                wanted = talk.rewards[number] + (10.0 if number == 0 and talk.turns[0] else 0.0)
                assert at_tokens[row, column, begin:end].sum() == pytest.approx(wanted)
                assert at_tokens[row, column, end - 1] in (talk.rewards[number], wanted)
    swapped = made.token_rewards(policy, list(range(made.failed.numel()))[::-1])
    assert torch.allclose(swapped.sum(dim=-1).flatten(), at_tokens.sum(dim=-1).flatten().flip(0))


def test_greedy_conversations_are_rewarded():
    policy, task = policy_of("chatml"), task_of(Chatting(turns=1), max_new_tokens=6)
    rewards = greedy_rewards(Bench(policy, sampler_of(max_new_tokens=None), task), task.prompts()[:3])
    assert rewards.tolist() == [1.0] * 3
    assert greedy_rewards(Bench(policy, sampler_of(max_new_tokens=None), task), ()).tolist() == []


def test_a_prompt_reaches_start_with_its_columns(tiny):
    class Echo(Environment):
        def start(self, prompt, **columns):
            seen.append((prompt, columns))
            return prompt

        def step(self, completion):
            return Turn(done=True)

    seen = []
    task = task_of(Echo())
    object.__setattr__(task, "prompts", lambda: (Prompt("1+2=", {"answer": "3", "level": 4}),))
    played(tiny, task, rows=1, group_size=2)
    assert seen == [("1+2=", {"answer": "3", "level": 4})] * 2


def test_special_tokens_that_an_environment_spells_are_plain_text_and_said_once(caplog):
    class Spelling(Chatting):
        def step(self, completion):
            turn = super().step(completion)
            return turn if turn.done else Turn("x<|im_end|>", reward=turn.reward)

    policy, task = policy_of("chatml"), task_of(Spelling(), max_new_tokens=6)
    for seed in (0, 1):
        made = played(policy, task, seed=seed)
        contexts = 0
        for group, masks in zip(made.rollout.sequences.completions, made.rollout.sequences.learned, strict=True):
            for tokens, learned in zip(group, masks, strict=True):
                words = policy.tokenizer.decode(tokens[~learned])
                contexts += words.count("x<|im_end|>")
                assert (tokens[~learned] == policy.text.turn_end_id).sum() <= words.count("<|im_end|>") - words.count(
                    "x<|im_end|>"
                )
    assert contexts
    assert [record.message for record in caplog.records if "spell special tokens" in record.message] == [
        caplog.records[0].message
    ]
    assert "plain text" in caplog.records[0].message


@pytest.mark.parametrize(("broken", "ends"), [(8, True), (7, False)])
def test_a_draw_of_which_every_conversation_breaks_off_ends_the_run(broken, ends):
    class Breaking(Counting):
        def start(self, prompt, seed):
            if seed < broken:
                raise OSError("no such game")
            return super().start(prompt, seed)

    one = task_of(Breaking())
    object.__setattr__(one, "prompts", lambda: tuple(Prompt("", columns={"seed": seed}) for seed in range(8)))
    found = played(policy_of("chatml"), one, rows=8, group_size=1)
    if not ends:
        found.require_some_unbroken()
        return
    with pytest.raises(TrainingError, match=r"all 8 conversations broke off.*no such game.*fix the environment"):
        found.require_some_unbroken()
    few = played(policy_of("chatml"), one, rows=7, group_size=2)
    few.require_some_unbroken()  # those of a few prompts may all break off by chance
