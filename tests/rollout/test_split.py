"""Two ranks in two threads: each makes a part of what a draw needs, and both have the whole."""

import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import rlx
from rlx.errors import TrainingError
from rlx.parallel.distributed import DistributedRanks
from rlx.rollout.play import play
from rlx.rollout.split import SplitSampler, split_statistics, split_task
from rlx.seeding import Stream
from rlx.task.environment import Turn
from tests.algorithm.conftest import lab, policy_and_reference  # noqa: F401
from tests.task.environments import Awaited, Counting, Failing, TwoPlayers, task_of


class Together:
    """Ranks that exchange by memory."""

    rows = DistributedRanks.rows

    def __init__(self, rank, world, place, barrier):
        self.rank, self.world, self._place, self._barrier = rank, world, place, barrier

    def exchange(self, what, function):
        self._place[self.rank] = function()
        self._barrier.wait()
        given = [self._place[rank] for rank in range(self.world)]
        self._barrier.wait()
        return given


def on_ranks(function, world=2):
    place, barrier, results = {}, threading.Barrier(world, timeout=60), {}

    def run(rank):
        with torch.no_grad():
            results[rank] = function(Together(rank, world, place, barrier))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == world
    return [results[rank] for rank in range(world)]


@pytest.mark.parametrize("count", [1, 5])
def test_completions_do_not_depend_on_the_number_of_ranks(lab, count):  # noqa: F811
    prompts = [lab.policy.encode_prompt(prompt.text) for prompt in lab.task.prompts()[:count]]
    asked = {"group_size": 3, "stream": Stream(5), "prompt_keys": range(count), "max_new_tokens": 6}
    alone = lab.sampler.sample(lab.policy, prompts, **asked)
    policies = [lab.policy.frozen_copy() for _ in range(2)]
    for rollout in on_ranks(lambda ranks: SplitSampler.of(lab.sampler, ranks).sample(policies[ranks.rank], prompts, **asked)):
        for mine, theirs in zip(rollout.sequences.completions, alone.sequences.completions, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
        torch.testing.assert_close(rollout.sampling_logprobs, alone.sampling_logprobs, atol=1e-6, rtol=1e-6)


def test_each_completion_is_rewarded_once(lab):  # noqa: F811
    asked = []
    task = rlx.load("task", "arithmetic", max_operand=20)
    object.__setattr__(task, "reward_all", lambda prompts, texts: asked.extend(texts) or [{"reward": len(t)} for t in texts])
    prompts = [prompt for prompt in lab.task.prompts()[:3] for _ in range(2)]
    texts = ["a", "bb", "ccc", "d" * 4, "e" * 5, "f" * 6]
    given = on_ranks(lambda ranks: split_task(task, ranks).reward_all(prompts, texts))
    assert given == [[{"reward": length} for length in range(1, 7)]] * 2
    assert sorted(asked) == texts


def test_statistics_are_those_of_the_whole(lab):  # noqa: F811
    prompts = [lab.policy.encode_prompt(prompt.text) for prompt in lab.task.prompts()[:5]]
    sequences = lab.sampler.sample(
        lab.policy, prompts, group_size=2, stream=Stream(1), prompt_keys=range(5), max_new_tokens=5
    ).sequences
    with torch.no_grad():
        whole = lab.policy.token_statistics(sequences, requires=frozenset({"entropy"}))
    policies = [lab.policy.frozen_copy() for _ in range(2)]  # a model serves one thread at a time

    def split(ranks):
        policy = policies[ranks.rank]
        with split_statistics(policy, ranks):
            found = policy.token_statistics(sequences, requires=frozenset({"entropy"}))
        assert "token_statistics" not in vars(policy)
        return found

    for found in on_ranks(split):
        torch.testing.assert_close(found.token_logprobs, whole.token_logprobs)
        torch.testing.assert_close(found.entropy, whole.entropy)


def test_with_a_gradient_nothing_is_split(lab):  # noqa: F811
    prompts = [lab.policy.encode_prompt(prompt.text) for prompt in lab.task.prompts()[:2]]
    sequences = lab.sampler.sample(
        lab.policy, prompts, group_size=2, stream=Stream(1), prompt_keys=range(2), max_new_tokens=5
    ).sequences
    with split_statistics(lab.policy, Together(0, 2, {}, None)), torch.enable_grad():
        assert lab.policy.token_statistics(sequences).token_logprobs.requires_grad


class Seen(TwoPlayers):
    """Counts where it is asked; `asked` is shared by all copies."""

    asked: ClassVar[list[tuple[str, int]]] = []

    def step(self, completion):
        self.asked.append((threading.current_thread().name, id(self.state)))
        return super().step(completion)

    def figures(self):
        return {"highest": float(max(self.state["moves"]))}


def played_on_ranks(lab, task, *, prompt_keys, **asked):  # noqa: F811
    """What each of two ranks has of the conversations of the first prompts."""
    policies = [lab.policy.frozen_copy() for _ in range(2)]

    def played(ranks):
        own = replace(task)  # a process has its own
        sampler, prompts = SplitSampler.of(lab.sampler, ranks), own.prompts()[: len(prompt_keys)]
        return play(split_task(own, ranks), policies[ranks.rank], sampler, prompts, prompt_keys=prompt_keys, **asked)

    return on_ranks(played)


@pytest.mark.parametrize(
    "environment",
    [Seen(), Awaited(), Failing("raises"), Failing("nonsense"), Failing("not finite")],
    ids=["two players", "async", "raises", "nonsense", "not finite"],
)
def test_conversations_are_those_of_one_process(lab, environment):  # noqa: F811
    task = task_of(environment, max_new_tokens=40)
    asked = {"group_size": 3, "stream": Stream(5), "prompt_keys": range(5)}
    alone = play(task, lab.policy, lab.sampler, task.prompts()[:5], **asked)
    for made in played_on_ranks(lab, task, **asked):
        assert made.texts == alone.texts
        assert made.turn_spans == alone.turn_spans
        assert made.graded == alone.graded
        assert torch.equal(made.failed, alone.failed)
        for name, figure in alone.figures().items():
            assert np.array_equal(made.figures()[name], figure)
        talks = [[talk.to_dict() for talk in group] for group in made.conversations]
        assert talks == [[talk.to_dict() for talk in group] for group in alone.conversations]
    assert isinstance(environment, Seen | Awaited) or bool(alone.failed.any())


def test_an_environment_is_asked_on_one_rank_alone(lab):  # noqa: F811
    Seen.asked.clear()
    played_on_ranks(lab, task_of(Seen(), max_new_tokens=40), group_size=2, stream=Stream(5), prompt_keys=range(4))
    assert len({state for _, state in Seen.asked}) == 8
    assert len(Seen.asked) > 8


class Locked(Counting):
    """Its answer cannot be pickled."""

    def step(self, completion):
        return Turn([{"role": "user", "content": "x", "lock": threading.Lock()}])


def test_what_cannot_be_sent_is_an_error_of_the_environment(lab):  # noqa: F811
    policies = [lab.policy.frozen_copy() for _ in range(2)]

    def split(ranks):
        task = task_of(Locked(), on_environment_error="stop")
        with pytest.raises(TrainingError, match=r"Locked gave Turn.*cannot be sent to the other ranks.*in turn 1"):
            play(
                split_task(task, ranks),
                policies[ranks.rank],
                SplitSampler.of(lab.sampler, ranks),
                task.prompts()[:2],
                group_size=1,
                stream=Stream(5),
                prompt_keys=range(2),
            )

    on_ranks(split)
