"""What is counted of rows that are there more than once, and when it is counted anew."""

from rlx.data import repeats as repeats_module
from rlx.data.stores import TokenStore
from rlx.data.survey import survey
from rlx.policy.tiny import build_tiny
from rlx.task.base import Pair, Pairs
from tests.data.test_survey import PAIRS, Given


def test_what_is_there_twice_is_kept_under_the_names_of_the_pairs(tmp_path, monkeypatch):
    policy, counted = build_tiny(), []
    policy.pair_tokenizer.store = TokenStore(tmp_path)
    count = repeats_module.counted_repeats
    monkeypatch.setattr(repeats_module, "counted_repeats", lambda *sides: counted.append(1) or count(*sides))
    held_out = Pairs.of([Pair("1+1=", "2", "4"), Pair("9+9=", "18", "9")], "h")

    def counts(name, pairs=PAIRS):
        return survey(Given(Pairs.of(pairs, name) if name else pairs, held_out), policy).counts

    first = counts("a")
    assert (first["duplicates"], first["in_both"], first["prompts"], first["white_space_pairs"]) == (1, 1, 5, 1)
    assert counts("a") == first
    assert len(counted) == 1
    assert counts("b", PAIRS[1:])["duplicates"] == 0
    assert counts("", PAIRS) == first  # without a name nothing is kept
    assert len(counted) == 3
