import pytest
from omegaconf import OmegaConf

from rlx.config.schema import conf_dir
from rlx.errors import ConfigError, DataError
from rlx.task.pair_file import LabelledFile, is_desirable
from tests.task.test_file import assistant, user, write

ROWS = [{"prompt": f"p{i}", "completion": f"c{i}", "label": i % 3 == 0} for i in range(90)]


def task(path, rows=None, **changes):
    defaults = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / "labelled_file.yaml"))
    values = {key: value for key, value in defaults.items() if not key.startswith("_")}
    return LabelledFile(
        **{**values, "name": "file", "path": str(path if rows is None else write(path / "a.jsonl", rows)), **changes}
    )


def test_a_desirable_completion_is_chosen_and_an_undesirable_one_rejected_with_the_other_side_absent(tmp_path):
    labelled = task(tmp_path, ROWS)
    found = {pair.prompt: pair for pair in (*labelled.pairs(), *labelled.held_out_pairs())}
    assert len(found) == 90
    assert (found["p3"].chosen, found["p3"].rejected, found["p3"].label) == ("c3", "", (True, None))
    assert (found["p4"].chosen, found["p4"].rejected, found["p4"].label) == ("", "c4", (None, False))
    assert "desirable and" in labelled.facts()["pairs"]


def test_a_flipped_completion_changes_sides(tmp_path):
    (pair,) = [pair for pair in task(tmp_path, ROWS).pairs() if pair.label == (True, None)][:1]
    other = pair.flipped()
    assert (other.chosen, other.rejected, other.label) == ("", pair.chosen, (None, False))
    assert other.flipped().label == pair.label
    assert all(is_desirable(pair) for pair in task(tmp_path, ROWS, label_noise=1.0).pairs() if int(pair.prompt[1:]) % 3)


def test_a_prompt_is_on_one_side_and_both_labels_are_held_out_in_turn(tmp_path):
    rows = [{**row, "prompt": f"p{index // 2}"} for index, row in enumerate(ROWS)]
    labelled = task(tmp_path, rows)
    assert not {pair.prompt for pair in labelled.pairs()} & {pair.prompt for pair in labelled.held_out_pairs()}
    for count in range(4, 9):
        held_out = task(tmp_path, ROWS[:count]).held_out_pairs()
        assert [is_desirable(pair) for pair in held_out[:2]] == [True, False]


def test_messages_and_labels_come_in_several_forms(tmp_path):
    chat = {"prompt": [user("p")], "completion": [assistant("c")], "label": "False"}
    rows = [chat, {"prompt": "a", "completion": "x", "label": 1}, {"prompt": "b", "completion": "y", "label": 0}, *ROWS]
    labelled = task(tmp_path, rows)
    found = {str(pair.prompt): pair for pair in (*labelled.pairs(), *labelled.held_out_pairs())}
    assert found[str((user("p"),))].rejected == (assistant("c"),)
    assert (found["a"].chosen, found["b"].rejected) == ("x", "y")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "p", "completion": "c", "label": "good"},
            r"a\.jsonl:1: 'label' is 'good'; a label is true or false, or 1 or 0",
        ),
        ({"prompt": "p", "completion": "c", "label": 2}, r"a\.jsonl:1: 'label' is 2"),
    ],
)
def test_a_row_whose_label_is_none_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        task(tmp_path, [row, *ROWS]).pairs()


def test_a_file_of_one_label_or_too_few_prompts_teaches_nothing(tmp_path):
    with pytest.raises(DataError, match="no 'label' is false"):
        task(tmp_path, [{**row, "label": True} for row in ROWS]).pairs()
    with pytest.raises(DataError, match="all prompts are held out"):
        task(tmp_path, ROWS[:2]).pairs()
    with pytest.raises(ConfigError, match=r"held_out of LabelledFile is 1"):
        task(tmp_path, ROWS, held_out=1)
