"""Rows that lack something, in every kind of file: dropped, counted and shown, and an error where it is lacking everywhere."""

import json

import pytest

import rlx
from rlx.data.survey import survey
from rlx.errors import DataError

TALK = [{"role": "user", "content": "hi {}"}, {"role": "assistant", "content": "yo {}"}]
# task -> a row, and what each of its columns is called
KINDS = {
    "preference_file": {"prompt": "p {}", "chosen": "c {}", "rejected": "r {}"},
    "rewarded_preferences": {"prompt": "p {}", "chosen": "c {}", "rejected": "r {}"},
    "labelled_file": {"prompt": "p {}", "completion": "c {}", "label": True},
    "demonstration_file": {"prompt": "p {}", "completion": "c {}"},
    "prompt_file": {"prompt": "p {}", "answer": "{}"},
}
NOTHING = {"null": None, "empty list": [], "missing": ...}
CASES = [(kind, name, nothing) for kind, row in KINDS.items() for name in row for nothing in NOTHING]
CASES += [(kind, "prompt", "empty text") for kind in KINDS]


def rows(kind):
    made = [json.loads(json.dumps(KINDS[kind]).replace("{}", str(number))) for number in range(12)]
    return [{**row, "label": number % 2 == 0} for number, row in enumerate(made)] if kind == "labelled_file" else made


def without(row, name, nothing):
    value = {**NOTHING, "empty text": ""}[nothing]
    return {key: value if key == name else old for key, old in row.items() if key != name or value is not ...}


def loaded(tmp_path, kind, made):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return rlx.load("task", kind, path=str(path))


@pytest.mark.parametrize(("kind", "name", "nothing"), CASES)
def test_a_row_that_lacks_something_is_dropped_counted_and_shown(tmp_path, kind, name, nothing):
    made = rows(kind)
    made[4] = without(made[4], name, nothing)
    made[7] = without(made[7], name, nothing)
    found = survey(loaded(tmp_path, kind, made), rlx.load("policy", "tiny"))
    assert (found.counts["read"], found.counts["kept"], found.counts["dropped"]) == (12, 10, 2)
    assert (found.counts["duplicates"], found.counts["in_both"]) == (0, 0)
    (dropped,) = found.dropped
    assert dropped["count"] == 2
    assert dropped["example"]["source"].endswith("a.jsonl:5")
    assert any(caution.startswith("2 rows") and "dropped" in caution for caution in found.cautions)


@pytest.mark.parametrize(("kind", "name", "nothing"), CASES)
def test_what_every_row_lacks_is_an_error(tmp_path, kind, name, nothing):
    with pytest.raises(DataError, match=rf"{name}|different prompts"):
        loaded(tmp_path, kind, [without(row, name, nothing) for row in rows(kind)]).notes()


def test_a_prompt_that_no_row_has_is_not_guessed_from_the_rows_that_allow_it(tmp_path):
    made = [{"promt": "p", "chosen": f"so {n}", "rejected": f"so {-n}" if n < 9 else "x"} for n in range(12)]
    with pytest.raises(DataError, match=r"a\.jsonl:10: there is no 'prompt' here"):
        loaded(tmp_path, "preference_file", made).pairs()


@pytest.mark.parametrize(
    ("row", "said"),
    [({"prompt": "q", "answer": None}, "'answer' is null"), ({"prompt": "q"}, "there is no key 'answer' here, only 'prompt'")],
)
def test_a_run_says_how_many_prompts_were_dropped(tmp_path, row, said):
    task = loaded(tmp_path, "prompt_file", [*rows("prompt_file"), row])
    assert "; 1 rows dropped, such as " in task.facts()["prompts"]
    assert task.facts()["prompts"].endswith(f"a.jsonl:13: {said}")


@pytest.mark.parametrize("labels", [(1, 0), (1.0, 0.0), ("1", "0"), ("1.0", "0.0"), ("True", "false")])
def test_labels_are_read_in_every_form_of_a_table(tmp_path, labels):
    made = [{**row, "label": labels[number % 2]} for number, row in enumerate(rows("labelled_file"))]
    pairs = loaded(tmp_path, "labelled_file", made)
    found = {pair.prompt: pair.label for pair in (*pairs.pairs(), *pairs.held_out_pairs())}
    assert found == {f"p {n}": (True, None) if n % 2 == 0 else (None, False) for n in range(12)}


@pytest.mark.parametrize(
    ("label", "said"), [(2, "'labels' is 2; a label is"), ("x", "'labels' is 'x'; a label is"), (0.5, "0.5")]
)
def test_which_side_of_shp_is_better_is_not_guessed(tmp_path, label, said):
    made = [{"history": f"q{n}", "human_ref_A": "a", "human_ref_B": "b", "labels": n % 2} for n in range(6)]
    with pytest.raises(DataError, match=rf"a\.jsonl:7: .*{said}"):
        loaded(tmp_path, "preference_file", [*made, {**made[0], "labels": label}]).pairs()
    pairs = loaded(tmp_path, "preference_file", [*made, {**made[0], "labels": None}]).pairs()
    assert [pair.lacks for pair in pairs if pair.lacks] == ["'labels' is null"]


def test_a_whole_number_of_a_column_with_nulls_is_that_number(tmp_path):
    made = [{"prompt": f"p{n}", "answer": float(n)} for n in range(5)] + [{"prompt": "q", "answer": float("nan")}]
    task = loaded(tmp_path, "prompt_file", made)
    (prompt, *_) = task.prompts()
    number = prompt.text[1:]
    assert task.reward(prompt, number)["reward"] == 1
    assert [lacks for _, lacks in task.dropped_rows()] == ["'answer' is null"]
