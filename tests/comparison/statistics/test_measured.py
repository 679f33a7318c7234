import ast
import importlib
import inspect
from pathlib import Path

import pytest

from rlx.comparison import statistics
from rlx.comparison.statistics import measured
from rlx.comparison.statistics.difference import seeds_needed

MODULES = sorted(path.stem for path in Path(statistics.__file__).parent.glob("*.py") if path.stem not in ("__init__", "measured"))
DATA = {"a", "b", "rng", "scores", "strata", "statistic", "arms", "curves", "values", "thresholds", "steps", "difference", "p"}
DATA |= {"target", "df", "level", "name", "error", "result"}  # of a statistic, a quantile, a test
DATA |= {"parts", "tables", "count", "total", "chances", "limits"}


@pytest.fixture(params=MODULES)
def module(request):
    return importlib.import_module(f"rlx.comparison.statistics.{request.param}")


def functions(module):
    found = [item for _, item in inspect.getmembers(module, inspect.isfunction) if item.__module__ == module.__name__]
    return [item for item in found if not item.__name__.startswith("_")]


def test_every_function_has_a_docstring(module):
    assert [item.__name__ for item in functions(module) if not inspect.getdoc(item)] == []


def test_after_the_data_everything_is_named(module):
    for item in functions(module):
        positional = [p.name for p in inspect.signature(item).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert set(positional) <= DATA, item.__name__


def test_no_global_generator_is_read(module):
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Attribute)]
    assert not [call for call in calls if call.startswith("np.random.") and call != "np.random.Generator"]


def test_nothing_of_rlx_but_its_errors_is_imported(module):
    names = {
        node.module
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rlx")
    }
    assert {name for name in names if not name.startswith("rlx.comparison.statistics.")} <= {"rlx.errors"}


def test_the_measured_numbers_are_printed():
    assert "Coverage of the 95 % intervals" in measured.__doc__


def test_the_guide_shows_the_measured_error_rates():
    page = (Path(statistics.__file__).parents[2] / "guide" / "compare.md").read_text()
    names = {"binary": "right or wrong", "real": "real", "skewed": "skewed"}
    for (kind, interaction), by_prompts in measured.CROSSED_ERROR.items():
        for prompts, rates in zip((16, 64, 512), by_prompts, strict=True):
            shown = " | ".join(f"{rate:.3f}" for rate in rates)
            assert f"| {names[kind]} | {'yes' if interaction else 'no'} | {prompts} | {shown} |" in page
            assert max(rates) <= 0.06


def test_the_guide_shows_the_seeds_that_power_needs():
    page = (Path(statistics.__file__).parents[2] / "guide" / "compare.md").read_text()
    for name, deviations in (("seeds each", (1.0, 1.0)), ("pairs of seeds (`paired=true`)", (1.0, 0.0))):
        needed = [seeds_needed(difference, deviations=deviations) for difference in (0.5, 0.8, 1, 1.5, 2, 3)]
        assert f"| {name} | {' | '.join(map(str, needed))} |" in page
