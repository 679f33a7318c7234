import csv
import io
import re

from rlx.report.tables import csv_tables, latex, markdown
from tests.report.pages import HOSTILE


def test_csv_holds_every_row_at_full_precision(ordinary):
    tables = {name: list(csv.DictReader(io.StringIO(text))) for name, text in csv_tables(ordinary).items()}
    assert {name: len(rows) for name, rows in tables.items()} == {"variants.csv": 5, "pairs.csv": 10, "runs.csv": 31}
    first = tables["variants.csv"][0]
    assert float(first["mean"]) == ordinary.variants[0].mean
    assert float(first["interval_low"]) == ordinary.variants[0].interval.low
    assert [float(word) for word in first["scores"].split()] == list(ordinary.variants[0].scores)


def test_csv_starts_no_formula(hostile, ordinary):
    for comparison in (hostile, ordinary):
        for text in csv_tables(comparison).values():
            for row in csv.reader(io.StringIO(text)):
                for cell in row:
                    assert cell[:1] not in "=+@" or cell == "" or float(cell) is not None


def test_markdown_tables_have_as_many_cells_as_headings(hostile):
    lines = [line for line in markdown(hostile).splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert set(cells[:4]) == {cells[0]}
    assert "<script>" not in markdown(hostile)


def test_latex_escapes_what_latex_reads(hostile):
    text = latex(hostile)
    assert HOSTILE not in text
    body = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}", "", text)
    assert "$" not in body
    assert "\\%" in text
    assert body.count("{") == body.count("}")


def test_latex_rows_fit_their_tabular(ordinary):
    spec = re.search(r"\\begin\{tabular\}\{(\w+)\}", latex(ordinary))[1]
    rows = [line for line in latex(ordinary).split(r"\midrule")[1].split(r"\bottomrule")[0].splitlines() if line]
    assert {line.count(" & ") + 1 for line in rows} == {len(spec)}
