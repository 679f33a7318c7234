import json
import math

import pytest
from omegaconf import OmegaConf

from rlx.config.schema import conf_dir
from rlx.errors import ConfigError, DataError
from rlx.task.pair_file import PreferenceFile


def task(path, **changes):
    defaults = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / "preference_file.yaml"))
    values = {key: value for key, value in defaults.items() if not key.startswith("_")}
    return PreferenceFile(**{**values, "name": "file", "path": str(path), **changes})


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "be brief"}


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "pairs.jsonl", [{"prompt": f"p{i // 2}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(200)])


def test_all_pairs_of_a_prompt_are_on_one_side(file):
    learn, held_out = ([pair.prompt for pair in side] for side in (task(file).pairs(), task(file).held_out_pairs()))
    assert len(learn) + len(held_out) == 200
    assert not set(learn) & set(held_out)
    assert 8 <= len(held_out) <= 40
    assert [prompt.text for prompt in task(file).held_out_prompts()] == list(dict.fromkeys(held_out))


def test_the_split_does_not_depend_on_the_place_in_the_file(file, tmp_path):
    lines = file.read_text().splitlines()
    other = tmp_path / "reversed.jsonl"
    other.write_text("\n".join(reversed(lines[20:])))
    before, after = ({pair.prompt for pair in task(place).held_out_pairs()} for place in (file, other))
    assert after <= before


def test_a_small_file_has_at_least_one_pair_held_out(tmp_path):
    for count in range(2, 8):
        rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(count)]
        small = task(write(tmp_path / f"{count}.jsonl", rows))
        assert small.pairs()
        assert small.held_out_pairs()


def test_an_empty_file_says_so(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl is empty; each pair is one JSON object"):
        task(write(tmp_path / "a.jsonl", [])).pairs()


def test_one_prompt_is_not_enough(tmp_path):
    with pytest.raises(DataError, match="1 different prompts"):
        task(write(tmp_path / "a.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3)).pairs()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p ", "chosen": "c", "rejected": "r"}, ("p ", "c", "r")),
        (
            {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
            ((user("p"),), (assistant("c"),), (assistant("r"),)),
        ),
        (
            {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            ((user("p"),), (assistant("c"),), (assistant("r"),)),
        ),
        (
            {"prompt": [user("p")], "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            ((user("p"),), (assistant("c"),), (assistant("r"),)),
        ),
        ({"prompt": [user("p")], "chosen": "c", "rejected": "r"}, ((user("p"),), (assistant("c"),), (assistant("r"),))),
        (
            {"prompt": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            ((user("p"),), (assistant("c"),), (assistant("r"),)),
        ),
        (
            {"prompt": "p", "chosen": [SYSTEM, user("p"), assistant("c")], "rejected": [SYSTEM, user("p"), assistant("r")]},
            ((SYSTEM, user("p")), (assistant("c"),), (assistant("r"),)),
        ),
        (
            {"prompt": "p", "chosen": [assistant("c")], "rejected": [assistant("r")]},
            ((user("p"),), (assistant("c"),), (assistant("r"),)),
        ),
        ({"chosen": "one two three", "rejected": "one two four"}, ("one two ", "three", "four")),
    ],
)
def test_the_forms_that_pairs_come_in(tmp_path, row, expected):
    other = {"prompt": "other", "chosen": "a", "rejected": "b"}
    pairs = task(write(tmp_path / "a.jsonl", [row, other]))
    (pair,) = [p for p in (*pairs.pairs(), *pairs.held_out_pairs()) if p.prompt != "other"]
    assert (pair.prompt, pair.chosen, pair.rejected) == expected


def test_key_names_and_scores_can_be_chosen(tmp_path):
    rows = [{"q": f"p{i}", "good": "a", "bad": "b", "s1": 3, "s2": 1.5} for i in range(4)]
    keys = {"prompt_key": "q", "chosen_key": "good", "rejected_key": "bad", "chosen_score_key": "s1", "rejected_score_key": "s2"}
    assert {pair.scores for pair in task(write(tmp_path / "a.jsonl", rows), **keys).pairs()} == {(3.0, 1.5)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, r"a\.jsonl:1: there is no key 'rejected'"),
        ({"prompt": "p", "chosen": 3, "rejected": "b"}, r"a\.jsonl:1: 'chosen' is neither text nor a list of messages"),
        ({"prompt": "p", "chosen": "a", "rejected": [assistant("b")]}, r"a\.jsonl:1: one of chosen and rejected is text"),
        (
            {"prompt": "p", "chosen": [user("p")], "rejected": [assistant("b")]},
            r"a\.jsonl:1: there is a prompt of text beside conv",
        ),
        ({"chosen": "abc", "rejected": "xyz"}, r"a\.jsonl:1: there is no 'prompt' here, only"),
        ({"prompt": None, "chosen": "abc", "rejected": "xyz"}, r"a\.jsonl:1: there is nothing in 'prompt', and chosen"),
        ({"prompt": [{"text": "p"}], "chosen": "a", "rejected": "b"}, r"a\.jsonl:1: 'prompt' is neither"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        task(write(tmp_path / "a.jsonl", [row])).pairs()


def test_scores_that_are_no_numbers_are_named(tmp_path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "s1": "x", "s2": 1}]
    for score in ("x", math.nan, math.inf, None):
        rows[0]["s1"] = score
        with pytest.raises(DataError, match=rf":1: scores {score!r} and 1 are not both finite numbers"):
            task(write(tmp_path / "a.jsonl", rows), chosen_score_key="s1", rejected_score_key="s2").pairs()


def test_settings_that_cannot_be_are_refused(file):
    with pytest.raises(ConfigError, match="set both"):
        task(file, chosen_score_key="s")


def test_the_content_hash_follows_the_file(file):
    before = task(file).content_hash()
    file.write_text(file.read_text() + '\n{"prompt": "new", "chosen": "a", "rejected": "b"}')
    assert task(file).content_hash() != before
