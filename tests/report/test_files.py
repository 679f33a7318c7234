import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlx.comparison.comparison import compare
from rlx.errors import ConfigError
from rlx.report.files import contest_rows, place_beside, sample_rows, write_files
from rlx.report.files import render_page as render
from tests.comparison.records import normal_scores, write_run, write_sweep
from tests.report.pages import HOSTILE, samples, write_hostile

SCORES = {"custom_dpo": [0.5, 0.51, 0.52], "hybrid": [0.6, 0.61, 0.62]}


def test_files_lie_beside_the_runs(tmp_path):
    comparison = compare(write_sweep(tmp_path / "sweep", SCORES))
    assert place_beside(comparison) == tmp_path / "sweep"
    write_files(comparison, place_beside(comparison), page=True, figures=False, version="1.2.3")
    names = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_file()}
    assert names == {"comparison.json", "comparison.md", "comparison.tex", "variants.csv", "pairs.csv", "runs.csv", "report.html"}
    again = compare(tmp_path / "sweep")  # its own files do not disturb it
    assert json.loads((tmp_path / "sweep" / "comparison.json").read_text()) == again.to_dict()


def test_several_sweeps_share_the_directory_above(tmp_path):
    write_sweep(tmp_path / "one", {"custom_dpo": SCORES["custom_dpo"]})
    write_sweep(tmp_path / "two", {"hybrid": SCORES["hybrid"]})
    assert place_beside(compare([tmp_path / "one", tmp_path / "two"])) == tmp_path


def test_runs_with_nothing_in_common_write_where_one_stands(tmp_path, monkeypatch):
    comparison = compare(write_sweep(tmp_path, SCORES))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert place_beside(comparison) == Path.cwd()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    comparison = compare(write_sweep(tmp_path / "sweep", SCORES))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_files(comparison, tmp_path / "file" / "below", page=False, figures=False, version="1.2.3")


@pytest.mark.whole
def test_figures_and_page_on_demand(tmp_path):
    comparison = compare(write_sweep(tmp_path / "sweep", SCORES))
    written = write_files(comparison, tmp_path / "out", page=False, figures=True, version="1.2.3")
    assert tmp_path / "out" / "figures" in written
    assert not (tmp_path / "out" / "report.html").exists()


def render_page(comparison):
    return render(comparison, version="1.2.3")


VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """The elements of a page, and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.wrong = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def test_the_page_is_well_formed_and_whole(ordinary):
    text = render_page(ordinary)
    page = Page(text)
    assert not page.wrong
    assert not page.open
    for piece in (
        "better",
        "Cautions",
        "Learning curves",
        "Completions",
        "Differences of the configs",
        "Provenance",
        "Make it again",
        "rlx 1.2.3.",
    ):
        assert piece in text
    assert text.index("Verdicts</h2>") < text.index("Figures</h2>")


def test_the_page_asks_for_nothing_from_a_network(ordinary):
    text = render_page(ordinary)
    addresses = [value for name, value in Page(text).attributes if name in ("src", "href", "srcset", "action")]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", text)


def test_text_from_records_makes_no_element(hostile):
    page = Page(render_page(hostile))
    assert not page.wrong
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_text_from_records_steers_nothing(hostile):
    text = render_page(hostile)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "{{ 7*7 }}" in text.replace("&#34;", '"')


def test_only_the_pages_own_script_may_run(ordinary):
    text = render_page(ordinary)
    assert re.search(r"default-src 'none';.*script-src 'sha256-[\w+/=]{44}'", text.replace("&#39;", "'"))


def test_samples_stand_side_by_side_for_the_same_prompt(ordinary):
    rows = sample_rows(ordinary)
    assert rows[0]["prompt"] == "12+34="
    assert [answer["variant"] for answer in rows[0]["answers"]] == [variant.label for variant in ordinary.variants]
    assert {answer["completion"] for answer in rows[0]["answers"]} == {"46", "47"}
    assert rows[1]["prompt"] == "user: 7+8="


def test_samples_are_those_of_the_last_evaluation(tmp_path):
    for seed, score in enumerate(normal_scores(0.5, 0.1, 3)):
        write_run(tmp_path / str(seed), seed=seed, score=score, samples=[*samples(0, "old"), *samples(100, "new")])
    answers = sample_rows(compare(tmp_path))[0]["answers"]
    assert [(answer["completion"], answer["seed"]) for answer in answers] == [("new", 0)]


def test_damaged_samples_cost_no_page(tmp_path):
    root = write_hostile(tmp_path)
    (root / "0_0" / "samples.jsonl").write_text("nonsense\n{}\n")
    assert "Verdicts" in render_page(compare(root))


def test_long_completions_are_cut_and_said_to_be(tmp_path):
    for seed, score in enumerate(normal_scores(0.5, 0.1, 3)):
        write_run(tmp_path / str(seed), seed=seed, score=score, samples=samples(100, "x" * 10_000))
    assert "(6000 more characters)" in sample_rows(compare(tmp_path))[0]["answers"][0]["completion"]


def test_a_page_of_one_variant_and_one_of_one_seed(tmp_path):
    write_run(tmp_path / "a", seed=0)
    assert "nothing to compare it with" in render_page(compare(tmp_path, allow="single"))


def test_a_hundred_runs_make_a_small_page_quickly(tmp_path):
    for place in range(10):
        for seed in range(10):
            score = 0.5 + place / 50 + seed / 500
            curve = [0.3 + (score - 0.3) * k / 200 for k in range(201)]
            options = {"samples": samples(100, HOSTILE), "curve": curve}
            write_run(tmp_path / f"{place}_{seed}", algorithm="hybrid", seed=seed, algorithm__w=place, score=score, **options)
    start = time.process_time()
    text = render_page(compare(tmp_path))
    assert time.process_time() - start < 10
    assert len(text.encode()) < 3_000_000


def test_chats_read_as_messages(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "7+8="}]
    rows = [{"step": 100, "prompt": chat, "completion": "15"}, {"step": 100, "prompt": [{"odd": 1}], "completion": "x"}]
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, score=0.5 + seed / 10, samples=rows)
    prompts = [row["prompt"] for row in sample_rows(compare(tmp_path))]
    assert prompts[0] == "system: Be brief.\nuser: 7+8="
    assert '"odd"' in prompts[1]


def test_prompts_won_and_lost_stand_with_both_completions(tmp_path):
    for name, answers, word in (("grpo", [1.0, 1.0, 0.0], "good"), ("custom_dpo", [0.0, 1.0, 0.0], "bad")):
        for seed in range(2):
            options = {"score": sum(answers) / 3, "answers": answers, "samples": samples(100, word), "noise": float(seed)}
            write_run(tmp_path / f"{name}{seed}", algorithm=name, seed=seed, **options)
    comparison = compare(tmp_path)
    row = contest_rows(comparison, comparison.pairs)[0]
    assert row["words"] == "grpo wins 1 of 3 prompts against custom_dpo, loses 0 and ties 2"
    assert [one["side"] for one in row["lists"]] == ["won"]
    assert [p["prompt"] for p in row["lists"][0]["prompts"]] == ["12+34="]
    assert [answer["completion"] for answer in row["lists"][0]["prompts"][0]["answers"]] == ["good", "bad"]
    assert "Prompts won and lost" in render_page(comparison)


@pytest.mark.parametrize("sign", ["", "-"])
def test_every_prompt_won_or_lost_is_on_the_page_and_what_has_no_room_is_counted(tmp_path, monkeypatch, sign):
    for name, counted in (("grpo", [1.0] * 9 + [0.0] * 6), ("custom_dpo", [0.0] * 9 + [1.0] * 5 + [0.0])):
        rows = [{"prompt": f"p{place}", "completion": f"{name}{place}", "score": one} for place, one in enumerate(counted)]
        for seed in range(2):
            options = {"score": sum(counted) / 15, "answers": counted, "completions": rows, "noise": float(seed)}
            write_run(tmp_path / f"{name}{seed}", algorithm=name, seed=seed, **options)
    comparison = compare(tmp_path, metric=f"{sign}eval/score")
    lists = {one["side"]: one for one in contest_rows(comparison, comparison.pairs)[0]["lists"]}
    better = "custom_dpo" if sign else "grpo"  # on nine prompts
    nine = "won" if comparison.pairs[0].a == better else "lost"
    found = {side: (one["total"], one["kept"], len(one["prompts"])) for side, one in lists.items()}
    assert found == {nine: (9, 9, 9), {"won": "lost", "lost": "won"}[nine]: (5, 5, 5)}
    page = render_page(comparison)
    assert all(f"{name}{place}<" in page for name in ("grpo", "custom_dpo") for place in range(14))
    assert "grpo14<" not in page.partition('id="contests"')[2].partition("<h2")[0]
    monkeypatch.setattr("rlx.report.files.MOST_CONTEST_CHARACTERS", 1300)
    shown = {one["side"]: len(one["prompts"]) for one in contest_rows(comparison, comparison.pairs)[0]["lists"]}
    assert 4 <= shown[nine] < 9
    assert "are shown; the completions of both are kept for 9" in render_page(comparison)


def test_without_answers_there_is_no_section_of_prompts(ordinary):
    assert contest_rows(ordinary, ordinary.pairs) == []
    assert "Prompts won and lost" not in render_page(ordinary)
