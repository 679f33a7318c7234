import numpy as np
import pytest

from rlx.rollout.decoding.loop import StopStrings, cut


def letters(tokens):
    return "".join(chr(int(token)) for token in tokens)


def as_tokens(text):
    return np.array([ord(letter) for letter in text])


def test_a_stop_string_completes_with_its_last_token():
    stop = StopStrings(("END", "\n\n"), letters)
    text = "abcEND"
    assert [stop.complete(as_tokens(text[: end + 1])) for end in range(len(text))] == [False] * 5 + [True]
    assert stop.complete(as_tokens("x\n\n"))
    assert not stop.complete(as_tokens("x\ny\n"))


def test_a_token_may_run_past_the_stop_string():
    pieces = {1: "an", 2: "swer.\nQ", 3: ": "}
    stop = StopStrings(("\n",), lambda tokens: "".join(pieces[int(token)] for token in tokens))
    assert not stop.complete(np.array([1]))
    assert stop.complete(np.array([1, 2]))


def test_long_completions_are_read_at_their_end_only():
    read = []
    stop = StopStrings(("END",), lambda tokens: read.append(len(tokens)) or letters(tokens))
    assert stop.complete(as_tokens("x" * 500 + "END"))
    assert max(read) < 20


@pytest.mark.parametrize(
    ("text", "strings", "left"),
    [("a\nb", ("\n",), "a"), ("abc", ("\n",), "abc"), ("x;y\nz", ("\n", ";"), "x"), ("abc", (), "abc"), ("END", ("END",), "")],
)
def test_text_is_cut_before_the_first_stop_string(text, strings, left):
    assert cut(text, strings) == left
