import pytest
import torch

from rlx.data.tokenized import TokenizedPairs, split_prompt
from rlx.data.tokens import TextEncoder
from rlx.errors import DataError
from rlx.policy.tiny import character_tokenizer
from rlx.task.base import Pair

TEXT = TextEncoder(character_tokenizer())


def message(role, content):
    return {"role": role, "content": content}


def decoded(tokens):
    return TEXT.tokenizer.decode(tokens.tolist())


def test_pairs_that_cannot_be_learned_from_are_dropped_and_counted():
    pairs = [
        Pair("1+1=", "2", "3"),
        Pair("1+1=", "", "3"),
        Pair("1+1=", "2", " \n"),
        Pair("1+1=", "2", "2"),
        Pair("1+1=", "2", "3" * 40),
        Pair("1+2=", "3", "4"),
    ]
    source = TokenizedPairs.of(pairs, TEXT, max_length=20)
    assert source.dropped == {"empty": 2, "equal": 1, "too_long": 1}
    assert source.index.tolist() == [0, 5]
    assert len(source) == 2
    assert source.recurs
    assert [decoded(c) for c in source.sequences.completions[1]] == ["3<eos>", "4<eos>"]


def test_the_smaller_of_both_limits_holds_and_counts_the_end_token():
    pairs = [Pair("12", "345", "6")]
    assert len(TokenizedPairs.of(pairs, TEXT, max_length=6)) == 1  # 2 + 3 + end
    assert TokenizedPairs.of(pairs, TEXT, max_length=5).dropped == {"too_long": 1}
    assert TokenizedPairs.of(pairs, TextEncoder(TEXT.tokenizer, max_length=5), max_length=6).dropped == {"too_long": 1}


def test_a_long_prompt_loses_its_beginning_before_lengths_are_judged():
    text = TextEncoder(TEXT.tokenizer, max_prompt_length=3)
    source = TokenizedPairs.of([Pair("abcdef", "1", "2"), Pair("ab", "1", "2")], text, max_length=5)
    assert source.truncated == 1
    assert not source.dropped
    assert [decoded(prompt) for prompt in source.sequences.prompts] == ["def", "ab"]


def test_scores_come_along_where_all_pairs_have_them():
    with_scores = [Pair("a", "1", "1"), Pair("a", "1", "2", scores=(1.0, 0.5)), Pair("b", "1", "2", scores=(3.0, 2.0))]
    assert TokenizedPairs.of(with_scores, TEXT).scores.tolist() == [[1.0, 0.5], [3.0, 2.0]]
    assert TokenizedPairs.of([*with_scores, Pair("c", "1", "2")], TEXT).scores is None


def test_nothing_kept_is_an_error_only_for_who_needs_some_and_says_why():
    source = TokenizedPairs.of(
        [Pair("a", "1", "1"), Pair("a", "", "1"), Pair("a", "1" * 9, "2"), Pair("b", "", "")], TEXT, max_length=5
    )
    assert len(source) == 0
    said = "none of the 4 pairs held out of task x is left: 1 have the same .*, 2 have an empty .*, 1 are longer .*max_length"
    with pytest.raises(DataError, match=said):
        source.require_some("pairs held out of task x")
    TokenizedPairs.of([Pair("a", "1", "1"), Pair("a", "1", "2")], TEXT).require_some("pairs")
    TokenizedPairs.of([], TEXT).require_some("pairs")


def test_conversations_are_cut_where_their_prompt_ends():
    hi, answer, other = message("user", "hi"), message("assistant", "a"), message("assistant", "b")
    given = split_prompt((hi,), (answer,), (other,))
    whole = split_prompt((hi,), (hi, answer), (hi, other))
    implied = split_prompt((), (hi, answer), (hi, other))
    text_prompt = split_prompt("hi", (hi, answer), (hi, other))
    assert given == whole == implied == text_prompt == ((hi,), (answer,), (other,))
    # Each completion keeps a message of its own, even where both conversations are equal.
    assert split_prompt((), (hi, answer), (hi, answer)) == ((hi,), (answer,), (answer,))


def test_without_a_common_token_the_prompt_begins_with_bos():
    source = TokenizedPairs.of([Pair("", "1", "2")], TEXT)
    assert source.sequences.prompts[0].tolist() == [TEXT.tokenizer.bos_token_id]
    assert source.sequences.completion_mask.tolist() == [[[True, True], [True, True]]]
    assert torch.equal(source.sequences.completion_lengths, torch.tensor([[2, 2]]))


def test_the_absent_side_of_a_single_completion_has_no_token():
    pairs = [
        Pair("1+1=", "2", "", label=(True, None)),
        Pair("1+1=", "", "3", label=(None, False)),
        Pair("1+2=", "", " ", label=(None, False)),
        Pair("1+2=", "3", "4"),
    ]
    source = TokenizedPairs.of(pairs, TEXT)
    assert source.dropped == {"empty": 1}
    shown = [[decoded(side) for side in group] for group in source.sequences.completions]
    assert shown == [["2<eos>", ""], ["", "3<eos>"], ["3<eos>", "4<eos>"]]
    assert [decoded(prompt) for prompt in source.sequences.prompts] == ["1+1=", "1+1=", "1+2="]
    assert source.label.tolist() == [[True, False], [False, False], [True, False]]
    assert source.has_label.tolist() == [[True, False], [False, True], [True, True]]
    assert TokenizedPairs.of(pairs[3:], TEXT).has_label is None


def test_a_prompt_of_millions_of_characters_is_dropped_without_being_tokenised(monkeypatch):
    seen = []
    monkeypatch.setattr(
        TextEncoder,
        "write",
        lambda self, examples, known=TextEncoder.write: (
            seen.extend(len(prompt) for prompt, *_ in examples) or known(self, examples)
        ),
    )
    pairs = [Pair(prompt="7" * 3_000_000, chosen="2", rejected="3"), Pair(prompt="1+1=", chosen="2", rejected="3")]
    source = TokenizedPairs.of(pairs, TEXT, max_length=16)
    assert source.dropped == {"too_long": 1}
    assert source.index.tolist() == [1]
    assert max(seen) < 10


def test_transcripts_in_which_others_speak_within_a_completion_are_dropped():
    """As rows of Anthropic's HH whose sides differ before their last answers, or within a question."""
    begin = "\n\nHuman: one\n\nAssistant:"
    pairs = [
        Pair(begin, " yes", " no"),
        Pair(begin, " yes\n\nHuman: why\n\nAssistant: so", " no"),
        Pair(f"{begin} yes\n\nHuman: why ", "not\n\nAssistant: so", "so\n\nAssistant: not"),
        Pair("Continue the play.", "\n\nHuman: no", "\n\nHuman: yes"),
    ]
    made = TokenizedPairs.of(pairs, TEXT)
    assert made.index.tolist() == [0, 3]
    assert made.dropped == {"others_speak": 2}


@pytest.mark.parametrize("said", ["{eos}", " \n{eos}", "{eos} and more"])
def test_an_answer_that_is_an_end_alone_is_empty(said):
    end = said.format(eos=TEXT.tokenizer.eos_token)
    asked, messages = ({"role": "user", "content": "1+1="},), [({"role": "assistant", "content": each},) for each in (end, "3")]
    whole = TokenizedPairs.of([Pair("1+1=", end, "3"), Pair("1+2=", "3", "4"), Pair(asked, *messages)], TEXT)
    assert (len(whole), whole.dropped) == (1, {"empty": 2})
