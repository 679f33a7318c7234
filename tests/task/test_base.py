import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlx.errors import ConfigError, DataError
from rlx.task.base import Curriculum, Pair, Task, content_uniform, with_label_noise

PAIRS = [Pair(prompt=f"{i}", chosen="a", rejected="b", scores=(2.0, 1.0)) for i in range(500)]


@given(st.text())
def test_a_content_has_one_place(text):
    assert content_uniform(text, salt="x") == content_uniform(text, salt="x")
    assert 0 <= content_uniform(text, salt="x") < 1


def test_places_are_uniform_and_differ_by_salt():
    places = [content_uniform(str(i), salt="x") for i in range(4000)]
    assert abs(sum(places) / len(places) - 0.5) < 0.02
    assert content_uniform("1", salt="x") != content_uniform("1", salt="y")


def test_messages_have_a_place_whatever_the_order_of_their_keys():
    assert content_uniform(({"role": "user", "content": "a"},), salt="x") == content_uniform(
        ({"content": "a", "role": "user"},), salt="x"
    )


def test_no_noise_changes_nothing_and_full_noise_flips_all():
    assert list(with_label_noise(PAIRS, 0.0)) == PAIRS
    flipped = with_label_noise(PAIRS, 1.0)
    assert {(pair.chosen, pair.rejected, pair.scores) for pair in flipped} == {("b", "a", (1.0, 2.0))}


def test_more_noise_flips_more_of_the_same_pairs():
    some, more = (with_label_noise(PAIRS, noise) for noise in (0.2, 0.5))
    flipped = [{pair.prompt for pair in pairs if pair.chosen == "b"} for pairs in (some, more)]
    assert 60 < len(flipped[0]) < 140
    assert flipped[0] < flipped[1]


@pytest.mark.parametrize("noise", [-0.1, 1.1])
def test_noise_is_a_share(noise):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        with_label_noise(PAIRS, noise)


def test_a_task_says_what_it_lacks():
    task = Task(name="bare", max_new_tokens=4)
    for call in (task.pairs, task.prompts):
        with pytest.raises(ConfigError, match="task bare"):
            call()


def test_every_level_from_the_first_on_has_prompts():
    assert Curriculum((1, 0, 2), 0, 0.5, 3).highest == 2
    with pytest.raises(DataError, match="no prompts of level 1, and goes from 0 to 2"):
        Curriculum((0, 2), 0, 0.5, 3)
