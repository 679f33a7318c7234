"""Stand-ins for a task keep the task, and their rewards are a function of the text."""

from rlx.check.stand_in_task import reward_of, shortened, stand_in_task
from tests.check.checking import laboratory


def test_a_task_is_cut_short_and_the_task_itself_is_not():
    task = laboratory()[1]
    before = len(task.pairs())
    few = shortened(task, rows=3)
    assert [len(few.pairs()), len(few.prompts()), len(few.held_out_prompts())] == [3, 3, 3]
    assert few.pairs()[0] is task.pairs()[0]
    assert len(task.pairs()) == before


def test_the_text_alone_decides_the_reward_and_the_parts_keep_their_names():
    task = laboratory()[1]
    prompt = task.prompts()[0]
    rewards = stand_in_task(task).reward_all([prompt] * 20, [str(n) for n in range(20)])
    assert {line["reward"] for line in rewards} == {0.0, 0.5, 1.0}
    assert [line["reward"] for line in rewards] == [reward_of(str(n)) for n in range(20)]
    assert set(rewards[0]) == set(task.reward_all([prompt], ["1"])[0])
    assert stand_in_task(task).reward(prompt, "7") == rewards[7]


def test_rewards_can_all_be_equal_and_higher():
    task = laboratory()[1]
    rewards = stand_in_task(task, equal_rewards=True, bonus=2.0).reward_all([task.prompts()[0]] * 5, list("abcde"))
    assert {line["reward"] for line in rewards} == {2.5}


def test_fine_rewards_all_differ_and_may_be_turned_round():
    task = laboratory()[1]
    up, down = (stand_in_task(task, fine=sign).reward_all([task.prompts()[0]] * 9, list("123456789")) for sign in (1.0, -1.0))
    assert len({line["reward"] for line in up}) == 9
    assert all(0 < one["reward"] < 1 and other["reward"] == -one["reward"] for one, other in zip(up, down, strict=True))
