import pytest

from rlx.report.tables import interval, pair_columns, percent, title, variant_columns


def row(columns, item):
    return {column.name: column.text(item) for column in columns}


def test_a_row_of_a_variant(ordinary):
    columns = variant_columns(ordinary)
    first = row(columns, ordinary.variants[0])
    assert (first["rank"], first["variant"], first["seeds"], first["mean"]) == ("1", "hybrid dpo_weight=1", "6", "0.700")
    assert [column.name for column in columns][:4] == ["rank", "variant", "mean", "95 % interval"]
    assert "gap" not in first  # one task has no optimality gap


def test_a_row_of_a_pair(ordinary):
    found = row(pair_columns(ordinary), ordinary.pair("hybrid dpo_weight=1", "custom_dpo"))
    assert (found["a - b"], found["verdict"], found["P(a > b)"]) == ("+0.150", "better", "100 %")


def test_what_sorts_is_the_number_behind_the_text(ordinary):
    mean = next(column for column in variant_columns(ordinary) if column.name == "mean")
    values = [mean.value(variant) for variant in ordinary.variants]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("share", "text"), [(0.001, "<1 %"), (0.999, ">99 %"), (0.5, "50 %"), (1.0, "100 %"), (0.0, "0 %"), (None, "-")]
)
def test_percent(share, text):
    assert percent(share) == text


def test_no_interval_is_a_dash_and_the_title_says_what_was_compared(ordinary):
    assert interval(None) == "-"
    assert title(ordinary) == "5 variants, 31 runs on arithmetic: eval/score at the last evaluation"
