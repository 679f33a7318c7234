"""Conversations that end otherwise than by the environment's word: faults of the environment, and limits."""

import pytest
import torch

from rlx.errors import TrainingError
from rlx.policy.tiny import load_tiny
from rlx.rollout.draw import sample_groups
from rlx.task.base import Prompt
from rlx.task.environment import Turn
from tests.rollout.stand_in import Bench, sampler_of
from tests.rollout.test_play import played, policy_of
from tests.task.environments import Chatting, Counting, Failing, task_of


@pytest.fixture(scope="module")
def tiny():
    return load_tiny()


@pytest.mark.parametrize(
    ("fault", "said"),
    [("raises", "ValueError: the board is broken"), pytest.param("hangs", "no answer within", marks=pytest.mark.whole),
     ("nonsense", "not a Turn"), ("silent", "neither says anything nor is done"), ("not finite", "finite number")],
)  # fmt: skip
def test_an_environment_that_fails_is_named_and_the_others_go_on(fault, said, caplog):
    policy = policy_of("chatml")
    task = task_of(Failing(fault), max_new_tokens=6, step_seconds=0.2 if fault == "hangs" else 30.0)
    made = played(policy, task, rows=4)
    failed, sound = made.failed, played(policy, task_of(Counting(), max_new_tokens=6), rows=4)
    assert 0 < int(failed.sum()) < failed.numel()
    for row, group in enumerate(made.conversations):
        for column, talk in enumerate(group):
            if talk.error:
                assert said in talk.error
                assert f"in turn 2 of conversation {column + 1} of prompt {row}" in talk.error
                assert made.graded[row][column].parts["reward"] == -1.0
            else:
                assert made.texts[row][column] == sound.texts[row][column]
    assert said in caplog.text
    batch = sample_groups(Bench(policy, sampler_of(max_new_tokens=None), task), [0, 1, 2, 3], group_size=4)
    assert torch.equal(batch.kept, ~batch.failed)
    assert batch.figures()["environment_failed"] == pytest.approx(float(batch.failed.double().mean()))
    strict = task_of(Failing(fault), max_new_tokens=6, step_seconds=0.2, on_environment_error="stop")
    with pytest.raises(TrainingError, match="in turn 2 of conversation"):
        played(policy, strict, rows=4)


def test_a_start_that_fails_ends_its_conversations_alone():
    class Broken(Chatting):
        def start(self, prompt, seed):
            if seed == bad:
                raise KeyError("no board")
            return super().start(prompt, seed)

    task = task_of(Broken(), max_new_tokens=6)
    bad = task.prompts()[1].columns["seed"]
    made = played(policy_of("chatml"), task)
    assert made.failed.tolist() == [[False] * 4, [True] * 4, [False] * 4]
    assert [len(tokens) for tokens in made.rollout.sequences.completions[1]] == [0] * 4
    assert made.rewards()["reward"][1].tolist() == [-1.0] * 4


@pytest.mark.parametrize(
    ("family", "opening", "said"),
    [
        ("gemma2", [{"role": "system", "content": "Count."}, {"role": "user", "content": "3?"}], "System role not supported"),
        ("gemma2", [{"role": "assistant", "content": "3"}], "the chat template refuses messages"),
        ("chatml", "1+" * 300, "no room for a turn"),
    ],
)
def test_an_opening_that_cannot_be_read_fails_alone(family, opening, said, caplog):
    class Odd(Counting):
        def start(self, prompt, seed):
            super().start(prompt, seed)
            return opening if seed in bad else "1+1="

    task = task_of(Odd(), max_new_tokens=6)
    bad = [task.prompts()[row].columns["seed"] for row in (1, 3)]
    made = played(policy_of(family), task, rows=4)
    assert made.failed.tolist() == [[False] * 4, [True] * 4, [False] * 4, [True] * 4]
    assert all(said in talk.error and "conversation" in talk.error for talk in made.conversations[1])
    assert ["7 more like it" in record.message for record in caplog.records] == [True]
    assert [len(tokens) for tokens in made.rollout.sequences.completions[1]] == [0] * 4


@pytest.mark.parametrize(
    ("family", "opening", "answer", "said"),
    [
        ("gemma2", [{"role": "user", "content": "3?"}], [{"role": "user", "content": "a"}] * 2, "the chat template refuses"),
        ("chatml", "3+1=", [{"role": "user", "content": "a"}], "continues in plain text"),
    ],
)
def test_an_answer_that_cannot_be_read_fails_alone(family, opening, answer, said):
    class Odd(Counting):
        def start(self, prompt, seed):
            super().start(prompt, seed)
            self.bad = self.rng.random() < 0.5
            return opening

        def step(self, completion):
            turn = super().step(completion)
            return Turn(answer if self.bad else "again", turn.reward, turn.done)

    made = played(policy_of(family), task_of(Odd(), max_new_tokens=6), rows=4)
    talks = [talk for group in made.conversations for talk in group]
    assert {bool(talk.error) for talk in talks} == {True, False}
    for talk in talks:
        assert not talk.error or (said in talk.error and "in turn 1 of conversation" in talk.error)
    with pytest.raises(TrainingError, match=said):
        played(policy_of(family), task_of(Odd(), max_new_tokens=6, on_environment_error="stop"), rows=4)


def test_a_start_that_differs_within_a_group_is_refused():
    class Random(Counting):
        def start(self, prompt, seed):
            super().start(prompt, seed)
            return f"{self.rng.random()}"

    with pytest.raises(TrainingError, match="all completions of a group begin alike"):
        played(policy_of("chatml"), task_of(Random()))


def test_limits_of_turns_and_tokens_truncate():
    policy = policy_of("chatml")
    by_turns = played(policy, task_of(Chatting(turns=40), max_turns=2, max_new_tokens=6))
    assert max(len(spans) for group in by_turns.turn_spans for spans in group) == 2
    assert not by_turns.rollout.finished.any()
    most = 60
    by_tokens = played(policy, task_of(Chatting(turns=40), max_turns=40, max_tokens=most, max_new_tokens=6))
    assert int(by_tokens.rollout.sequences.completion_lengths.max()) <= most
    assert not by_tokens.rollout.finished.any()
    positions = played(policy, task_of(Chatting(turns=40), max_turns=40, max_new_tokens=8))
    lengths = [len(group[0]) + max(map(len, own)) for group, own in zip(
        [(prompt,) for prompt in positions.rollout.sequences.prompts], positions.rollout.sequences.completions, strict=True
    )]  # fmt: skip
    assert max(lengths) <= policy.max_length


def test_a_turn_that_is_cut_off_is_judged_and_is_the_last(tiny):
    made = played(tiny, task_of(Counting(turns=3), max_new_tokens=1))
    cut = [talk for group in made.conversations for talk in group if len(talk.turns) == 1]
    assert cut
    assert all(talk.rewards == [1.0] for talk in cut)


class Counted(Failing):
    """Counts the letters that the assistant said."""

    def figures(self):
        return {"letters": float(sum(map(len, self.seen)))}


def test_what_an_environment_counts_is_logged_and_is_0_where_it_broke_off():
    policy = policy_of("chatml")
    batch = sample_groups(
        Bench(policy, sampler_of(max_new_tokens=None), task_of(Counted("raises"), max_new_tokens=6)), [0, 1], group_size=4
    )
    assert batch.failed.any()
    assert not batch.environment_figures["letters"][batch.failed].any()
    assert batch.figures()["letters"] == pytest.approx(float(batch.environment_figures["letters"].mean()))
    assert batch.figures()["letters"] > 0
    part = batch.take([1])
    assert torch.equal(part.environment_figures["letters"], batch.environment_figures["letters"][[1]])
    joined = type(batch).join([part, batch])
    assert joined.environment_figures["letters"].shape == (3, 4)


@pytest.mark.parametrize("wrong", [{"letters": float("nan")}, {"letters": "many"}])
def test_what_is_no_number_is_refused(wrong):
    class Wrong(Counting):
        def figures(self):
            return wrong

    with pytest.raises(TrainingError, match="figures of Wrong returns"):
        played(policy_of("chatml"), task_of(Wrong(), max_new_tokens=6)).figures()


@pytest.mark.parametrize(
    ("given", "said"), [(lambda: {}["moves"], "raised KeyError: 'moves'"), (lambda: None, "gave None, not numbers by name")]
)
def test_figures_that_fail_are_named_with_the_conversation(given, said):
    class Failing(Counting):
        def figures(self):
            return given()

    with pytest.raises(TrainingError, match=f"figures of Failing {said}.*, after conversation 1 of prompt 0"):
        played(policy_of("chatml"), task_of(Failing(), max_new_tokens=6))


@pytest.mark.parametrize("name", ["reward_mean", "turns", "reward/environment"])
def test_what_an_environment_counts_has_a_name_of_its_own(name):
    class Taking(Counting):
        def figures(self):
            return {name: 1.0}

    batch = sample_groups(Bench(policy_of("chatml"), sampler_of(max_new_tokens=None), task_of(Taking())), [0, 1], group_size=2)
    with pytest.raises(
        TrainingError, match=f"figures of the environment gives {name}, a name of rlx's own among the figures of a"
    ):
        batch.figures()


@pytest.mark.parametrize(("text", "seen"), [("", "3+1="), ("Count.", "Count.")])
def test_a_reward_sees_what_a_conversation_began_with(text, seen):
    class Giving(Counting):
        def prompts(self, count, rng):
            return [Prompt(text, {"seed": 3})] * count

    found = []

    def reward(prompt, completion):
        found.append(prompt)
        return 0.0

    played(policy_of("chatml"), task_of(Giving(), rewards={"seeing": reward}, max_new_tokens=6), rows=1)
    assert found == [seen] * 4
