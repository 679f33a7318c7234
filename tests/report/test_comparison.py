import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from rlx.comparison.comparison import compare
from rlx.comparison.wording import verdict_lines
from rlx.report.columns import pair_table, variant_table
from rlx.report.comparison import (
    LATEX_ROWS,
    LATEX_WIDTH,
    console_for_output,
    gain_line,
    halving_lines,
    latex,
    markdown,
    print_comparison,
    title,
)
from tests.comparison.records import normal_scores, write_run, write_sweep


def printed(act, *, width=120, terminal=False):
    out = io.StringIO()
    act(Console(file=out, width=width, force_terminal=terminal, color_system=None, highlight=False, emoji=False, markup=False))
    return out.getvalue()


def test_the_answer_comes_before_the_numbers(ordinary):
    text = printed(lambda console: print_comparison(ordinary, console=console))
    assert text.splitlines()[1].startswith("hybrid dpo_weight=1 is the best: it is better than all others.")
    order = ["is better than", "rank", "adjusted p", "cautions"]
    places = [text.index(piece) for piece in order[:2]] + [text.rindex(piece) for piece in order[2:]]
    assert places == sorted(places)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_tables_drop_columns_rather_than_wrap(ordinary, width):
    text = printed(lambda console: print_comparison(ordinary, console=console), width=width, terminal=True)
    rows = [line for line in text.splitlines() if line.lstrip().startswith(("1  hybrid", "2  hybrid"))]
    assert len(rows) == 2
    assert all(len(line) <= width for line in text.splitlines())
    assert "0.700" in rows[0]


def test_the_test_is_named_with_its_reason_and_the_search_with_its_size(ordinary):
    text = printed(lambda console: print_comparison(ordinary, console=console))
    assert "Tests: Welch's t (runs taken as independent (paired=false), spreads that may differ)" in text
    assert "Holm's adjustment over 10 comparisons" in text
    assert "expected best of hybrid by the number of settings tried: 0.650 with 1, 0.700 with 3" in text


def test_hostile_text_steers_no_terminal(hostile):
    text = printed(lambda console: print_comparison(hostile, console=console))
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_many_pairs_are_summed_up(tmp_path):
    for place in range(7):
        for seed, score in enumerate(normal_scores(0.4 + place / 20, 0.01, 5, seed=place)):
            write_run(tmp_path / f"{place}{seed}", algorithm="hybrid", seed=seed, algorithm__w=place, score=score)
    comparison = compare(tmp_path)
    text = printed(lambda console: print_comparison(comparison, console=console))
    assert "21 pairs" in text
    assert text.count("is better than") == 7  # the conclusion, and the six of the best


def test_ranks_over_tasks_are_printed(tmp_path):
    for place, task in enumerate(("one", "two", "three")):
        for index, algorithm in enumerate(("a", "b", "c")):
            write_sweep(
                tmp_path / task, {algorithm: normal_scores(0.5 + index / 10 + place / 10, 0.01, 3, seed=index)}, task=task
            )
    text = printed(lambda console: print_comparison(compare(tmp_path, allow="tasks"), console=console))
    assert "Mean ranks over 3 tasks: c 1.00, b 2.00, a 3.00" in text
    assert "gap" in text


def test_a_pipe_is_wide_unless_columns_says_how_wide(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError()))
    assert console_for_output().width == 200
    monkeypatch.setenv("COLUMNS", "90")
    assert console_for_output().width == 90


def test_the_title_says_what_was_compared(ordinary):
    assert title(ordinary) == "5 variants, 31 runs on arithmetic: eval/score at the last evaluation"
    two = replace(ordinary, variants=ordinary.variants[:2])
    names = ", ".join(variant.label for variant in two.variants)
    assert title(two) == f"{names}: 2 variants, 31 runs on arithmetic: eval/score at the last evaluation"


def test_columns_are_hidden_with_a_word_and_chosen_by_name(ordinary):
    text = printed(lambda console: print_comparison(ordinary, console=console), width=80, terminal=True)
    assert "too narrow for the columns: " in text
    chosen = printed(lambda console: print_comparison(ordinary, console=console, columns=["best", "p"]))
    assert [line.split() for line in chosen.splitlines() if line.startswith(("variant ", "a "))] == [
        ["variant", "best"],
        ["a", "b", "p"],
    ]


def test_latex_rows_fit_their_tabular(ordinary):
    for text in (latex(ordinary), latex(ordinary, ["best", "p"])):
        specs = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
        bodies = [part.split(r"\bottomrule")[0] for part in text.split(r"\midrule")[1:]]
        for spec, body in zip(specs, bodies, strict=True):
            assert {line.count(" & ") + 1 for line in body.splitlines() if line} == {len(spec)}
    assert specs == ["lr", "llr"]


def test_a_latex_table_has_no_more_rows_than_a_page(ordinary):
    variants = tuple(replace(ordinary.variants[0], label=f"v{number}") for number in range(60))
    names = [variant.label for variant in variants]
    pairs = tuple(replace(ordinary.pairs[0], a=a, b=b) for place, a in enumerate(names) for b in names[place + 1 :])
    text = latex(replace(ordinary, variants=variants, pairs=pairs))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 * (1 + LATEX_ROWS) + 1  # and the untrained policy
    assert "The 40 with the best means of 60 variants." in text
    assert "40 of 1770 pairs: those of v0, which has the best mean." in text
    assert "best means of" not in latex(ordinary)


def test_latex_tables_leave_out_what_would_scale_them_below_legible(ordinary):
    rows = [line for line in latex(ordinary).splitlines() if line.endswith(r"\\")]
    assert max(map(len, rows)) <= LATEX_WIDTH + 40  # with the signs of LaTeX
    assert "worst" not in latex(ordinary)


def test_markdown_holds_verdicts_tables_and_cautions(ordinary, hostile):
    text = markdown(ordinary)
    assert text.index("is better than") < text.index("| rank |") < text.index("Cautions:")
    assert "<script>" not in markdown(hostile)


def test_a_gain_of_few_seeds_is_exploratory_and_says_why_its_interval_is_narrow(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.5, 0.52], "hybrid": [0.55, 0.53]}, with_answers=True)
    found = compare(tmp_path)
    narrow = found.variants[0].gain_interval.high - found.variants[0].gain_interval.low
    assert narrow < found.variants[0].interval.high - found.variants[0].interval.low
    assert "With 2 seeds this is exploratory." in gain_line(found)
    assert "the same prompts before and after training" in gain_line(found)


def test_half_an_interval_is_not_taken_for_a_verdict(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.5, 0.54], "hybrid": [0.51, 0.54]}, with_answers=True)
    found = compare(tmp_path)
    pair = found.pairs[0]
    assert pair.seeds_needed > pair.halving.seeds
    assert f"not detect a difference of this size: that needs about {pair.seeds_needed} seeds each" in halving_lines(found)[0]


def test_the_untrained_policy_is_a_row_and_what_halves_the_interval_is_said(tmp_path):
    low, high = normal_scores(0.5, 0.05, 6, seed=1), normal_scores(0.52, 0.05, 6, seed=2)
    write_sweep(tmp_path, {"custom_dpo": low, "hybrid": high}, with_answers=True)
    found = compare(tmp_path)
    lines = [gain_line(found), *halving_lines(found)]
    assert "untrained (step 0): 0.300. Gain over it, on these prompts: hybrid +0.220" in lines[0]
    assert "would halve the interval" in lines[1]
    assert "Standard deviations: between seeds" in lines[1]
    rows = variant_table(found).rows
    assert [row.label for row in rows] == ["hybrid", "custom_dpo", "untrained (step 0)"]
    assert "over seeds and prompts" in found.pairs[0].words


def test_what_is_equal_is_said_once_and_no_best_of_equals_is_confirmed(tmp_path):
    for beta in range(4):
        for seed in range(5):
            changes = {"algorithm__extra": beta, "noise": 5.0 * beta + seed}  # runs of equal scores that are not the same run
            write_run(tmp_path / f"{beta}{seed}", seed=seed, score=0.5, algorithm="dpo", **changes)
    found = compare(tmp_path)
    ((words, verdict),) = verdict_lines(found.pairs)
    assert len(found.pairs) == 6
    assert (words.count("extra="), verdict) == (4, "inconclusive")
    assert words.startswith("No verdict between ")
    assert pair_table(found).rows == []
    assert markdown(found).count("No verdict between") == 1
    kinds = [caution.kind for caution in found.cautions]
    assert kinds.count("identical_results") == 1
    assert "selected_on_same_seeds" not in kinds
