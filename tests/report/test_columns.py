import csv
import io

from rlx.report.columns import config_table, full_tables, pair_table, run_table, variant_table
from rlx.report.table import as_csv


def row(columns, item):
    return {column.name: column.text(item) for column in columns}


def test_a_row_of_a_variant(ordinary):
    columns = variant_table(ordinary).columns
    first = row(columns, ordinary.variants[0])
    assert (first["rank"], first["variant"], first["seeds"], first["mean"]) == ("1", "hybrid dpo_weight=1", "6", "0.700")
    assert [column.name for column in columns][:4] == ["rank", "variant", "mean", "95 % interval"]
    assert "gap" not in first  # one task has no optimality gap


def test_a_row_of_a_pair(ordinary):
    found = row(pair_table(ordinary).columns, ordinary.pair("hybrid dpo_weight=1", "custom_dpo"))
    assert (found["a - b"], found["verdict"], found["P(a beats b)"]) == ("+0.150", "better", "100 %")


def test_what_sorts_is_the_number_behind_the_text(ordinary):
    mean = next(column for column in variant_table(ordinary).columns if column.name == "mean")
    values = [mean.value(variant) for variant in ordinary.variants]
    assert values == sorted(values, reverse=True)


def test_a_row_of_a_run_and_of_the_configs(ordinary):
    failed = next(run for run in ordinary.runs if run.state == "failed")
    assert row(run_table(ordinary).columns, failed)["state"] == "failed, counted as worst"
    table = config_table(ordinary)
    found = {key: [column.text((key, values)) for column in table.columns[1:]] for key, values in table.rows}
    assert found["algorithm.dpo_weight"] == ["1.0", "0.5", "0.0", "-", "-"]


def test_csv_holds_every_row_at_full_precision(ordinary):
    tables = {table.name: list(csv.DictReader(io.StringIO(as_csv(table)))) for table in full_tables(ordinary.to_dict())}
    assert {name: len(rows) for name, rows in tables.items()} == {"variants": 5, "pairs": 10, "runs": 31}
    first = tables["variants"][0]
    assert float(first["mean"]) == ordinary.variants[0].mean
    assert float(first["interval_low"]) == ordinary.variants[0].interval.low
    assert [float(word) for word in first["scores"].split()] == list(ordinary.variants[0].scores)
