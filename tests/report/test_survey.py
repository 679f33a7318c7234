from rlx.data.survey import survey
from rlx.policy.tiny import build_tiny
from rlx.report.survey import example_pieces, example_text, survey_lines, survey_page
from rlx.task.base import Pair
from tests.data.test_survey import PAIRS, Given

TURNS = ({"role": "assistant", "content": "2"}, {"role": "user", "content": "<b>?"}, {"role": "assistant", "content": "3"})
POLICY = build_tiny()
FOUND = survey(Given([Pair(({"role": "user", "content": "1+1"},), TURNS, "4"), *PAIRS]), POLICY, num_examples=1)


def decode(ids):
    return POLICY.tokenizer.decode(ids)


def test_the_lines_name_what_was_dropped_with_an_example():
    text = "\n".join(survey_lines(FOUND))
    assert "6 rows read, 5 kept, 1 dropped" in text
    assert "dropped    1 have an empty completion" in text
    assert "for example a:3: '1+2='" in text
    assert "caution    " in text
    assert "note       columns that are not read: id" in text


def test_tokens_are_told_apart_by_who_wrote_them():
    prompt, chosen, _ = example_pieces(FOUND.examples[0], decode)
    assert {kind for _, kind in prompt} == {"prompt"}
    assert "".join(text for text, kind in chosen if kind == "learned") == "2<eos>3<eos>"
    assert "".join(text for text, kind in chosen if kind == "masked") == "\nuser:\n<b>?\nassistant:\n"
    assert "\\nuser:\\n<b>?" in example_text(FOUND.examples[0], decode).plain


def test_the_page_is_one_file_and_shows_text_as_text():
    page = survey_page(FOUND, decode, title="a & b")
    assert "<title>a &amp; b</title>" in page
    assert "<s>&lt;</s><s>b</s><s>&gt;</s>" in page
    assert "<b>2</b>" in page
    assert "http" not in page
