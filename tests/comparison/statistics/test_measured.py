import ast
import inspect

from rlx.comparison.statistics import measured as statistics


def test_every_name_has_a_docstring():
    for name in statistics.__all__:
        assert inspect.getdoc(getattr(statistics, name)), name


def test_after_the_data_everything_is_named():
    data = {
        "a",
        "b",
        "rng",
        "scores",
        "strata",
        "statistic",
        "arms",
        "curves",
        "values",
        "thresholds",
        "steps",
        "difference",
        "p",
    }
    data |= {"target"}  # of row_optimality_gap, which makes a statistic
    for name in statistics.__all__:
        item = getattr(statistics, name)
        if inspect.isfunction(item):
            positional = [p.name for p in inspect.signature(item).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert set(positional) <= data, name


def test_no_global_generator_is_read():
    source = "".join(inspect.getsource(inspect.getmodule(getattr(statistics, name))) for name in statistics.__all__)
    calls = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source.replace("from __future__ import annotations", "")))
        if isinstance(node, ast.Attribute)
    ]
    assert not [call for call in calls if call.startswith("np.random.") and call != "np.random.Generator"]


def test_the_measured_numbers_are_printed():
    assert "Coverage of the 95 % intervals" in statistics.__doc__
