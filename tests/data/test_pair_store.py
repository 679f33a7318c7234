import json
import logging

import pytest
import torch

from rlx.data import pair_store
from rlx.data.pair_store import PairStore
from rlx.data.stores import TensorStore, TokenStore
from rlx.data.tokenized import TokenizedPairs
from rlx.data.tokens import TextEncoder
from rlx.errors import DataError
from rlx.policy.tiny import character_tokenizer
from rlx.task import columns, pair_file
from rlx.task.base import Pair, Pairs
from rlx.task.pair_file import LabelledFile, PreferenceFile

NAME = "0" * 32
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, None]}}}
ALL = [
    Pair("12+34=", "46", "47", source="a:1"),
    Pair("", "", "", source="a:3", lacks="'chosen' is null"),
    Pair("Straße 好", "", "é", scores=(0.1, -2.0), source="a:2"),
    Pair(({"role": "user", "content": "?"},), ({"role": "assistant", "content": "1"},), (), label=(True, None)),
    Pair(
        ({"role": "system", "content": "s"}, {"role": "user", "content": "?"}),
        ({"role": "assistant", "content": "", "tool_calls": [CALL]},),
        ({"content": "2", "role": "assistant"},),
        tools=({"type": "function"},),
    ),
]


def shown(pairs):
    return [repr(vars(pair)) for pair in pairs]


def test_pairs_come_back_as_they_were(tmp_path):
    PairStore(tmp_path).write(NAME, (ALL, ALL[:1], []), {"x": [1]})
    sides, notes = PairStore(tmp_path).read(NAME)
    assert [shown(side) for side in sides] == [shown(ALL), shown(ALL[:1]), []]
    assert notes == {"x": [1]}
    assert PairStore(tmp_path).read("1" * 32) is None
    assert PairStore(None).read(NAME) is None


def test_what_other_code_has_packed_is_not_read(tmp_path, monkeypatch):
    PairStore(tmp_path).write(NAME, (ALL,), None)
    monkeypatch.setattr(pair_store, "_source", lambda: "another way of packing")
    assert PairStore(tmp_path).read(NAME) is None


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {1, 2}, "\ud800"])
def test_values_that_json_does_not_give_back_are_not_kept(tmp_path, value):
    strange = Pair(({"role": "user", "content": "?", "x": value},), "1", "2")
    PairStore(tmp_path).write(NAME, ([strange],), None)
    assert PairStore(tmp_path).read(NAME) is None


def test_a_file_of_another_form_is_said(tmp_path, caplog):
    TensorStore(tmp_path, "rows").write(pair_store._named(NAME), {"text": torch.zeros(3, dtype=torch.uint8)})
    with caplog.at_level(logging.WARNING, "rlx"):
        assert PairStore(tmp_path).read(NAME) is None
    assert "read again" in caplog.text


def task_of(path, kind=PreferenceFile, **given):
    keys = {"prompt_key": "prompt"} | (
        {"completion_key": "completion", "label_key": "label"}
        if kind is LabelledFile
        else {"chosen_key": "chosen", "rejected_key": "rejected", "chosen_score_key": None, "rejected_score_key": None}
    )
    settings = {"name": "x", "max_new_tokens": 8, "path": str(path), "held_out": 0.3, "label_noise": 0.0}
    return kind(**{**settings, **keys, **given})


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_file, "_LEAST_KEPT", 1)
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"{a}+1=", "chosen": str(a + 1), "rejected": str(a), "note": "n", "source": "n"} for a in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def read_again(monkeypatch):
    monkeypatch.setattr(columns, "read_rows", lambda file: pytest.fail("the file is parsed again"))


@pytest.mark.parametrize("kind", [PreferenceFile, LabelledFile])
def test_a_second_task_parses_nothing(tmp_path, rows, monkeypatch, kind):
    if kind is LabelledFile:
        made = [{"prompt": f"{a}?", "completion": str(a), "label": a % 2 == 0} for a in range(20)]
        rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    plain, first = task_of(rows, kind), task_of(rows, kind)
    first.keep_in(PairStore(tmp_path / "cache"))
    assert shown(first.pairs()) == shown(plain.pairs())
    read_again(monkeypatch)
    second = task_of(rows, kind)
    second.keep_in(PairStore(tmp_path / "cache"))
    assert shown(second.pairs()) == shown(plain.pairs())
    assert shown(second.held_out_pairs()) == shown(plain.held_out_pairs())
    assert second.notes() == plain.notes() == first.notes()
    assert second.pairs().name == first.pairs().name != second.held_out_pairs().name


@pytest.mark.parametrize("given", [{"label_noise": 0.5}, {"held_out": 0.58}, {"system": "Be brief."}, {"chosen_key": "note"}, {}])
def test_another_setting_or_content_is_read_anew(tmp_path, rows, given):
    first = task_of(rows)
    first.keep_in(PairStore(tmp_path / "cache"))
    first.pairs()
    if not given:
        rows.write_text(rows.read_text().replace("19", "91"))
    second, plain = task_of(rows, **given), task_of(rows, **given)
    second.keep_in(PairStore(tmp_path / "cache"))
    assert shown(second.pairs()) == shown(plain.pairs()) != shown(first.pairs())
    assert second.pairs().name != first.pairs().name


def test_a_class_of_ones_own_and_a_file_that_changes_meanwhile_are_not_kept(tmp_path, rows, monkeypatch):
    class Own(PreferenceFile):
        pass

    for task in (task_of(rows, Own), task_of(rows)):
        task.keep_in(PairStore(tmp_path / "cache"))
        hashes = iter(("a", "b"))
        monkeypatch.setattr(columns, "files_hash", lambda files, hashes=hashes: next(hashes))
        assert not isinstance(task.pairs(), Pairs)  # no name that would be that of other pairs
        assert not isinstance(task.held_out_pairs(), Pairs)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_damaged_file_is_read_anew_and_bad_rows_are_said_each_time(tmp_path, rows):
    for _ in range(2):
        task = task_of(rows)
        task.keep_in(PairStore(tmp_path / "cache"))
        assert shown(task.pairs()) == shown(task_of(rows).pairs())
        (file,) = (tmp_path / "cache").glob("*.safetensors")
        content = bytearray(file.read_bytes())
        content[-3] ^= 255
        file.write_bytes(content)
    rows.write_text(rows.read_text() + "{\n")
    for _ in range(2):
        task = task_of(rows)
        task.keep_in(PairStore(tmp_path / "cache"))
        with pytest.raises(DataError, match=r"rows\.jsonl:21"):
            task.pairs()


def facts(made):
    sequences = made.sequences
    tokens = [
        [part.tolist() for part in (prompt, *group)]
        for prompt, group in zip(sequences.prompts, sequences.completions, strict=True)
    ]
    return tokens, sequences.learned, made.index.tolist(), made.dropped, made.truncated, made.remarks, made.shown, made.largest


def test_named_pairs_are_looked_at_once(tmp_path, monkeypatch):
    text = TextEncoder(character_tokenizer(), max_prompt_length=3)
    pairs = [
        *(Pair(f"{a}+1=", str(a + 1), str(a)) for a in range(20)),
        Pair("1", "", "2"),
        Pair("1", "2", "2"),
        Pair("1" * 99, "2", "3"),
    ]
    plain = facts(TokenizedPairs.of(pairs, text, max_length=7))
    assert plain[3] == {"empty": 1, "equal": 1}
    assert plain[4] > 0
    store = TokenStore(tmp_path)
    first = TokenizedPairs.of(Pairs.of(pairs, "a"), text, max_length=7, store=store)
    monkeypatch.setattr("rlx.data.tokenized._choose", lambda *given: pytest.fail("every pair is looked at again"))
    second = TokenizedPairs.of(Pairs.of(pairs, "a"), text, max_length=7, store=TokenStore(tmp_path))
    assert facts(first) == facts(second) == plain
    for other in ({"max_length": 6}, {"max_length": None}):
        with pytest.raises(BaseException, match="looked at again"):
            TokenizedPairs.of(Pairs.of(pairs, "a"), text, store=TokenStore(tmp_path), **other)
    with pytest.raises(BaseException, match="looked at again"):
        TokenizedPairs.of(Pairs.of(pairs, "b"), text, max_length=7, store=TokenStore(tmp_path))
    monkeypatch.setattr("rlx.data.tokenized._source", lambda: "another rule of which pairs are kept")
    with pytest.raises(BaseException, match="looked at again"):
        TokenizedPairs.of(Pairs.of(pairs, "a"), text, max_length=7, store=TokenStore(tmp_path))


def test_a_choice_whose_tokens_are_gone_is_made_anew(tmp_path):
    text, pairs = TextEncoder(character_tokenizer()), Pairs.of([Pair("1+1=", "2", "3")] * 30, "a")
    plain = facts(TokenizedPairs.of(pairs, text, store=TokenStore(tmp_path)))
    for file in tmp_path.glob("*.safetensors"):
        content = file.read_bytes()
        file.unlink()
        assert facts(TokenizedPairs.of(pairs, text, store=TokenStore(tmp_path))) == plain
        file.write_bytes(content)
