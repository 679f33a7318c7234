import copy
import threading
from collections import Counter

import numpy as np
import pytest

from rlx.data import pair_tokens
from rlx.data.cut import Encoded
from rlx.data.pair_tokens import PairTokens, shared_prompt
from rlx.data.tokenized import TokenizedPairs
from rlx.data.tokens import TextEncoder
from rlx.errors import DataError
from rlx.policy.tiny import character_tokenizer
from rlx.task.base import Pair
from tests.data.test_tokens import CHATML, bytes_tokenizer
from tests.data.test_words import KINDS, hostile_texts, tokenizer_of

TEXT = TextEncoder(character_tokenizer())


def test_a_token_across_the_boundary_in_one_completion_is_learned_there_alone():
    def cut(first, second):
        prompt, sides, learned = shared_prompt(first, second, TEXT)
        return prompt.tolist(), *((side.tolist(), side[mask].tolist()) for side, mask in zip(sides, learned, strict=True))

    merged = frozenset({"boundary"})
    first, second = Encoded(np.array([1, 2, 3, 9]), 3), Encoded(np.array([1, 2, 7, 8]), 2, remarks=merged)
    assert cut(first, second) == ([1, 2], ([3, 9], [9]), ([7, 8], [7, 8]))
    # Even where the tokens happen to agree.
    assert cut(first, Encoded(np.array([1, 2, 3, 8]), 2, remarks=merged)) == ([1, 2], ([3, 9], [9]), ([3, 8], [3, 8]))
    # Prompts that were tokenised differently agree no further than their tokens do.
    other = Encoded(np.array([1, 5, 3]), 2)
    assert cut(Encoded(np.array([1, 2, 3]), 2, remarks=merged), other) == ([1], ([2, 3], [3]), ([5, 3], [3]))
    masked = Encoded(np.array([1, 2, 3, 9, 4]), 3, learned=np.array([False, True]))
    assert cut(masked, second)[1] == ([3, 9, 4], [4])


def test_a_pair_learns_of_each_side_what_a_single_completion_does_where_one_side_merges_with_the_prompt():
    text = TextEncoder(bytes_tokenizer())
    prompt, chosen, rejected = "the ", "answer", "#"  # " answer" has tokens of both
    rows = [Pair(prompt, chosen, "", label=(True, None)), Pair(prompt, "", rejected, label=(None, False))]
    single = TokenizedPairs.of(rows, text)
    pair = TokenizedPairs.of([Pair(prompt, chosen, rejected)], text)
    assert single.remarks == pair.remarks == {"boundary": 1}
    sides, masks = pair.sequences.completions[0], pair.sequences.learned[0]
    learned = [side[mask].tolist() for side, mask in zip(sides, masks, strict=True)]
    assert learned == [single.sequences.completions[row][row].tolist() for row in (0, 1)]


def rows_of(count):
    """Pairs of which every fifth has equal sides, every seventh a masked turn and every eleventh no answer."""
    rows = []
    for n in range(count):
        prompt = ({"role": "user", "content": f"{n}?"},)
        chosen = ({"role": "assistant", "content": f"{n}"},)
        rejected = chosen if n % 5 == 0 else ({"role": "assistant", "content": f"{n + 1}" * (n % 3 + 1)},)
        if n % 7 == 0:
            chosen = (*chosen, {"role": "user", "content": "Sure?"}, *chosen)
        rows.append((prompt, prompt if n % 11 == 0 else chosen, rejected, ()))
    return rows


@pytest.fixture
def chat():
    tokenizer = copy.deepcopy(bytes_tokenizer())
    tokenizer.chat_template = CHATML
    return TextEncoder(tokenizer)


@pytest.mark.parametrize("limits", [{"_ROWS": 1}, {"_ROWS": 7}, {"_CHARACTERS": 60}, {"_CHARACTERS": 500}])
def test_the_size_of_a_part_changes_nothing(chat, monkeypatch, limits):
    rows = rows_of(40)
    whole = PairTokens.of(chat, rows)
    for name, value in limits.items():
        monkeypatch.setattr(pair_tokens, name, value)
    assert PairTokens.of(chat, iter(rows)).equals(whole)
    assert sorted(whole.refused) == [0, 11, 22, 33]


@pytest.mark.parametrize("processes", [1, 2])
def test_parts_that_are_tokenised_by_words_have_the_same_tokens(monkeypatch, processes):
    tokenizer = tokenizer_of(*KINDS["qwen2"], added=("<|im_start|>", "<|im_end|>"))
    tokenizer.chat_template = CHATML
    text = TextEncoder(tokenizer)
    rows = [
        (
            ({"role": "user", "content": asked},),
            ({"role": "assistant", "content": said},),
            ({"role": "assistant", "content": f"{said} {asked}"}, {"role": "user", "content": said}),
            (),
        )
        for asked, said in zip(hostile_texts(100, 3), hostile_texts(100, 4), strict=True)
    ]
    whole = PairTokens.of(text, rows)
    for name, value in {"_ROWS": 2, "_FEW": 1, "num_processes": lambda: processes}.items():
        monkeypatch.setattr(pair_tokens, name, value)
    encoded, used = pair_tokens._encoded, Counter()

    def counted(own, part):
        used[own.words is not None] += 1
        return encoded(own, part)

    monkeypatch.setattr(pair_tokens, "_encoded", counted)
    assert PairTokens.of(text, rows).equals(whole)
    assert used == {True: 1 if processes > 1 else (len(rows) + 1) // 2}  # here; the others by copies of this process


def test_what_copies_of_the_process_cannot_do_it_does_itself(chat, monkeypatch):
    rows = rows_of(40)
    whole = PairTokens.of(chat, rows)
    tries = []

    def none(work, parts, processes):
        tries.append(len(parts))

    for name, value in {"_ROWS": 2, "num_processes": lambda: 2, "in_processes": none}.items():
        monkeypatch.setattr(pair_tokens, name, value)
    assert PairTokens.of(chat, rows).equals(whole)
    assert tries == [19]


def test_memory_holds_two_parts_at_a_time(chat, monkeypatch):
    """Rows are read as they are needed: of a stream no more than two parts are ahead of what is tokenised."""
    monkeypatch.setattr(pair_tokens, "_ROWS", 5)
    read, ahead, lock = [0], [], threading.Lock()
    encode = TextEncoder.encode_written

    def stream():
        for row in rows_of(100):
            read[0] += 1
            yield row

    def counted(self, texts):
        made = encode(self, texts)
        with lock:
            ahead.append(read[0] - 5 * len(ahead))
        return made

    monkeypatch.setattr(TextEncoder, "encode_written", counted)
    assert len(PairTokens.of(chat, stream())) == 100
    assert len(ahead) == 20
    assert max(ahead) <= 16


def test_an_error_in_a_later_part_is_raised(chat, monkeypatch):
    monkeypatch.setattr(pair_tokens, "_ROWS", 2)
    with pytest.raises(DataError, match="needs completions of plain text"):
        PairTokens.of(chat, [*rows_of(9), ("plain", ({"role": "assistant", "content": "1"},), "2", ())])


def test_some_of_the_pairs_are_those_pairs(chat):
    rows = rows_of(30)
    whole = PairTokens.of(chat, rows)
    for some in ([], [3], [29, 0, 7, 7, 14]):
        assert whole.only(some).equals(PairTokens.of(chat, [rows[row] for row in some]))
    short = np.minimum(whole.lengths[:, 0], 2)
    prompts, groups, _ = whole.only([1, 2], short).parts()
    known, same, _ = whole.only([1, 2]).parts()
    assert [prompt.tolist() for prompt in prompts] == [prompt[-2:].tolist() for prompt in known]
    assert all(np.array_equal(a, b) for one, two in zip(groups, same, strict=True) for a, b in zip(one, two, strict=True))


def test_pairs_with_equal_sides_are_found(chat):
    equal = PairTokens.of(chat, rows_of(30)).has_equal_sides()
    refused = {0, 11, 22}
    assert [row for row in np.flatnonzero(equal) if row not in refused] == [5, 10, 15, 20, 25]


def test_tokens_are_those_of_each_pair_alone(chat):
    rows = rows_of(25)
    pairs = [Pair(prompt, chosen, rejected) for prompt, chosen, rejected, _ in rows]
    together = TokenizedPairs.of(pairs, chat)
    alone = [TokenizedPairs.of([pair], chat) for pair in pairs]
    kept = [row for row, made in enumerate(alone) if len(made)]
    assert 0 < len(kept) < len(rows)
    assert together.index.tolist() == kept
    for place, row in enumerate(kept):
        whole, one = together.sequences[place : place + 1], alone[row].sequences
        assert np.array_equal(whole.prompts[0], one.prompts[0])
        assert all(map(np.array_equal, whole.completions[0], one.completions[0]))
        width = one.completion_mask.shape[-1]
        assert np.array_equal(whole.completion_mask[..., :width], one.completion_mask)
    assert together.dropped == {"empty": 3, "equal": 4}
    assert together.shown["equal"][0] == 5


def test_the_library_does_not_warn_of_long_texts():
    tokenizer = bytes_tokenizer()
    tokenizer.model_max_length = 50
    assert len(PairTokens.of(TextEncoder(tokenizer), [("q", "a" * 100, "b", ())])) == 1
    assert not tokenizer.deprecation_warnings  # what it has warned of, in each process that tokenises
