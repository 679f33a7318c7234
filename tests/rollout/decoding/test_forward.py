import numpy as np
import pytest
import torch

from rlx.policy.forward import ForwardSettings
from rlx.policy.tiny import load_tiny
from rlx.rollout.decoding.forward import CachedForward, Past, PlainForward, laid_out, padded
from rlx.rollout.decoding.probe import continues, forward_for
from rlx.rollout.play import play
from rlx.rollout.sampler import Draw
from rlx.seeding import Stream
from tests.rollout.stand_in import VOCABULARY, exact_logprobs, model_of, prompts_of, sampler_of
from tests.task.environments import Counting, task_of


def forwards(architecture):
    model = model_of(architecture)
    ways = {"plain": lambda: PlainForward(model), "cached": lambda: CachedForward(model, prepared_mask=False)}
    if architecture not in ("mistral", "bloom"):
        ways["prepared"] = lambda: CachedForward(model, prepared_mask=True)
    return model, ways


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(4, 4), (3, 9, 1)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mistral", "bloom"])
def test_every_way_gives_the_logits_of_each_sequence_alone(architecture, lengths):
    model, ways = forwards(architecture)
    prompts = prompts_of(*lengths)
    splits = [[0, 0, 1, 0, 1], [0, 1, 2, 3, 4], [0, 3, 2, 1], [2, 1], [0, 1]]
    for make in ways.values():
        generator = np.random.default_rng(0)
        sequences = [prompt.tolist() for prompt in prompts]
        forward = make()
        logits = forward.start(prompts, max_rows=5, max_new_tokens=6)
        for parents in [*splits, []]:
            for row, sequence in enumerate(sequences):
                exact = exact_logprobs(model, sequence)[-1]
                assert (torch.log_softmax(logits[row].double(), -1) - exact).abs().max() < 3e-5
            if parents:
                tokens = generator.integers(0, VOCABULARY, size=len(parents))
                sequences = [[*sequences[parent], int(token)] for parent, token in zip(parents, tokens, strict=True)]
                logits = forward.step(torch.tensor(parents), torch.from_numpy(tokens))


def test_padding_is_on_the_side_asked_for():
    tokens, mask = padded([np.array([5, 6, 7]), np.array([8])], left=True)
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert padded([np.array([5, 6]), np.array([8])], left=False)[0].tolist() == [[5, 6], [8, 0]]


# Between turns the keys and values of a conversation are kept, and a turn reads what is new.


def states(length, value=1.0):
    return torch.full((2, 2, 3, length, 4), value)


def test_what_a_history_begins_with_is_given_once():
    past = Past(budget=100)
    past.keep("a", np.array([1, 2, 3, 4]), states(4))
    assert past.tokens == 4
    assert past.take("a", np.array([1, 2, 3, 4, 5])).shape == (2, 2, 3, 4, 4)
    assert past.tokens == 0
    assert past.take("a", np.array([1, 2, 3, 4, 5])) is None


@pytest.mark.parametrize(
    ("history", "known"),
    [([1, 2, 9, 4, 5], 2), ([1, 2, 3, 4], 3), ([1, 2], 1), ([1], None), ([9, 2, 3, 4, 5], None)],
)
def test_only_equal_tokens_are_known_and_the_last_is_read_again(history, known):
    past = Past(budget=100)
    past.keep("a", np.array([1, 2, 3, 4]), states(4))
    found = past.take("a", np.array(history))
    assert (None if found is None else found.shape[-2]) == known
    assert past.tokens == 0


def test_no_more_tokens_are_held_than_the_budget_allows():
    past = Past(budget=5)
    past.keep("a", np.arange(3), states(3))
    past.keep("b", np.arange(3), states(3))
    assert past.take("b", np.arange(9)) is None
    past.keep("a", np.arange(5), states(5))  # in place of what was held of it
    assert past.tokens == 5


def test_rows_are_padded_on_the_left_alone_and_are_as_wide_as_the_longest():
    tokens, mask, before = laid_out([np.array([1, 2, 3, 4]), np.array([5, 6, 7])], [states(3), states(1, 2.0)])
    assert tokens.tolist() == [[3, 4], [6, 7]]
    assert mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert [layer[0, :, 0, :, 0].tolist() for layer in before] == [[[1.0, 1.0], [0.0, 2.0]]] * 2
    assert laid_out([np.array([1, 2]), np.array([3])], [None, None])[2] == []


def test_a_row_that_was_not_read_makes_no_batch_wider():
    tokens, mask, before = laid_out([np.arange(10), np.arange(9)], [states(8), None])
    assert tokens.tolist() == [list(range(1, 10)), list(range(9))]
    assert mask.shape == (2, 10)
    assert before[0].shape == (2, 2, 3, 1, 4)


def test_conversations_that_ended_hold_no_room():
    past = Past(budget=10)
    past.keep("a", np.arange(4), states(4))
    past.keep("b", np.arange(5), states(5))
    past.forget_others(["b", "c"])
    assert past.tokens == 5
    assert past.take("a", np.arange(9)) is None
    assert past.take("b", np.arange(9)) is not None


def test_turns_that_are_sampled_forget_conversations_that_are_not():
    policy, sampler = load_tiny(), sampler_of()
    past = sampler.new_past(policy)
    past.keep((0, 0), np.arange(4), states(4))
    sampler.extend(policy, [np.array([9, 8, 7])], addresses=[Stream(0)], limits=[1], names=[(1, 0)], past=past)
    assert past.take((0, 0), np.arange(9)) is None


def test_conversations_that_were_not_read_are_in_a_batch_of_their_own():
    past = Past(budget=100)
    for number in (0, 2):
        past.keep((number, 0), np.arange(4), states(4))
    lengths = [20, 10, 20, 30]
    draw = Draw(
        prompts=tuple(np.arange(length) for length in lengths), group_size=1, limits=np.full(4, 5), keys=np.zeros(4, np.uint64),
        temperature=1.0, greedy=False, names=[(number, 0) for number in range(4)], past=past,
    )  # fmt: skip
    assert [rows.tolist() for rows in sampler_of(batch_tokens=50)._batches(draw)] == [[0, 2], [1], [3]]


def test_keys_are_kept_under_autocast_too():
    policy = load_tiny()
    policy.forward_settings = ForwardSettings(autocast=torch.bfloat16)
    assert sampler_of().new_past(policy) is not None
    rollout = conversations(policy)
    with torch.no_grad():
        forward = policy.token_logprobs(rollout.sequences)
    mask = rollout.sequences.completion_mask
    assert float((forward - rollout.sampling_logprobs)[mask].abs().max()) < 0.2


@pytest.fixture
def read(monkeypatch):
    """The numbers of tokens of each forward pass, padding included."""
    policy, seen = load_tiny(), []
    own = type(forward_for(policy.model)[0])._forward

    def counted(self, tokens, *rest):
        seen.append(tuple(tokens.shape))
        return own(self, tokens, *rest)

    monkeypatch.setattr(type(forward_for(policy.model)[0]), "_forward", counted)
    return policy, seen


def conversations(policy, **settings):
    task = task_of(Counting(turns=6), max_new_tokens=60, max_turns=6)
    made = play(
        task, policy, sampler_of(max_new_tokens=None, **settings), task.prompts()[:3], group_size=2, stream=Stream(0),
        prompt_keys=range(3),
    )  # fmt: skip
    return made.rollout


def test_a_turn_reads_what_is_new(read):
    policy, seen = read
    rollout = conversations(policy)
    lengths = [len(tokens) for group in rollout.sequences.completions for tokens in group]
    assert max(lengths) > 30
    longest = max(width for _, width in seen)
    assert longest <= max(map(len, rollout.sequences.prompts)) + 10  # an answer of the environment
    with torch.no_grad():
        forward = policy.token_logprobs(rollout.sequences)
    mask = rollout.sequences.completion_mask
    assert float((forward - rollout.sampling_logprobs)[mask].abs().max()) < 1e-4


def test_without_room_conversations_are_read_again(read):
    policy, seen = read
    rollout = conversations(policy)
    seen.clear()
    again = conversations(policy, batch_tokens=1)
    assert max(width for _, width in seen) > 30
    for ours, theirs in zip(rollout.sequences.completions, again.sequences.completions, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def test_one_conversation_goes_on_in_the_way_that_was_tried():
    model = model_of("gpt2")
    assert continues(model)
    inner = model.forward

    def careless(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        if attention_mask is None and input_ids.shape[1] > 1 and past_key_values.get_seq_length():
            past_key_values = None  # a model may read several tokens without a mask as the first ones
        return inner(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values
        )

    model.forward = careless
    (history,) = prompts_of(9)
    first, second = forward_for(model)[0], forward_for(model)[0]
    first.start([history[:5]], max_rows=1, max_new_tokens=1)
    logits = second.start([history], max_rows=1, max_new_tokens=1, past=[first.states(0)])
    exact = exact_logprobs(model_of("gpt2"), history)[-1]
    assert (torch.log_softmax(logits[0].double(), -1) - exact).abs().max() < 1e-4
