"""Records damaged in every way: the answer is a message or a comparison, never a traceback."""

import copy
import json

import numpy as np
import pytest

from rlx.comparison.comparison import compare
from rlx.errors import RlxError
from rlx.report.columns import full_tables
from rlx.report.comparison import latex, markdown
from rlx.report.files import render_page
from rlx.report.table import as_csv
from tests.comparison.records import write_run, write_sweep
from tests.report.pages import samples

pytestmark = pytest.mark.whole

STRANGE = (
    None,
    [],
    {},
    "",
    "NaN",
    "Infinity",
    -1,
    1e308,
    10**400,
    True,
    ["x", {"y": None}],
    {"a": {"b": [1]}},
    "\u0000<b>\ud800",
)
ALLOW = ["single", "tasks", "missing", "budget", "unfinished", "damaged"]


def paths_of(values, prefix=()):
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*prefix, key))


def with_value(values, path, value):
    changed = copy.deepcopy(values)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


def without(values, path):
    changed = copy.deepcopy(values)
    node = changed
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return changed


def survives(root):
    try:
        comparison = compare(root, allow=ALLOW, num_resamples=100)
        render_page(comparison, version="1.2.3")
        markdown(comparison), latex(comparison), [as_csv(table) for table in full_tables(comparison.to_dict())]
        json.dumps(comparison.to_dict(), allow_nan=False)
    except RlxError as error:
        return str(error)
    return "compared"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("damaged")
    write_sweep(place, {"custom_dpo": [0.5, 0.52], "hybrid": [0.6, 0.63]}, samples=samples(100))
    return place


def cases(values):
    return [(path, strange) for path in paths_of(values) for strange in STRANGE]


@pytest.mark.parametrize("share", [40, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_strange_values_in_run_json(root, share):
    file = root / "hybrid_1_" / "run.json"
    whole = file.read_text()
    values = json.loads(whole)
    every = cases(values)
    picked = every if share is None else [every[i] for i in np.random.default_rng(0).choice(len(every), share, replace=False)]
    picked += [(path, []) for path in paths_of(values) if path[-1] == "_target_"]  # a list is not hashable
    try:
        for path, strange in picked:
            file.write_text(json.dumps(with_value(values, path, strange)))
            assert survives(root)
        for path in [path for path in paths_of(values) if len(path) < 3][:: 1 if share is None else 6]:
            file.write_text(json.dumps(without(values, path)))
            assert survives(root)
    finally:
        file.write_text(whole)


@pytest.mark.parametrize("name", ["steps", "tokens_trained"])
def test_strange_values_in_the_metadata_of_a_result(root, name):
    """The last step is held against the log's: what is not a number is not a step."""
    file = root / "hybrid_1_" / "run.json"
    whole = file.read_text()
    try:
        for strange in STRANGE:
            file.write_text(json.dumps(with_value(json.loads(whole), ("result", "metadata", name), strange)))
            assert survives(root)
    finally:
        file.write_text(whole)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "samples.jsonl"])
def test_files_cut_anywhere(root, name):
    file = root / "hybrid_1_" / name
    whole = file.read_bytes()
    try:
        for end in np.linspace(0, len(whole) - 1, 9).astype(int):
            file.write_bytes(whole[:end])
            assert survives(root)
        file.write_bytes(b"\xff\xfe\x00" + whole)
        assert survives(root)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
def test_strange_values_in_metrics(root, strange):
    file = root / "hybrid_1_" / "metrics.jsonl"
    whole = file.read_text()
    rows = [
        {"step": 0, "eval/score": 0.1},
        {"step": 5, "eval/score": strange, "eval/kl": strange},
        {"step": 5, "eval/score": 0.2},
    ]
    try:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert survives(root)
    finally:
        file.write_text(whole)


def test_steps_that_go_back_count_once_with_their_last_value(tmp_path):
    directory = write_run(tmp_path / "a", score=0.4)
    rows = [(0, 0.1), (50, 0.9), (25, 0.2), (50, 0.3), (100, 0.4)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "eval/score": v}) + "\n" for s, v in rows))
    curve = compare(tmp_path, allow="single").curves[0]
    assert curve.steps.tolist() == [0, 25, 50, 100]
    assert curve.mean.tolist() == [0.1, 0.2, 0.3, 0.4]
