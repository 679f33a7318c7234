import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from rlx.comparison import statistics
from rlx.comparison.statistics.difference import seeds_needed

MODULES = sorted(path.stem for path in Path(statistics.__file__).parent.glob("*.py") if path.stem != "__init__")
GUIDE = Path(statistics.__file__).parents[2] / "guide"
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


def test_the_guide_shows_the_measured_error_rates():
    page = (GUIDE / "compare.md").read_text()
    names = {"binary": "right or wrong", "real": "real", "skewed": "skewed"}
    measured = re.findall(r"^crossed, (\w+), ([01]) +(.*)$", (GUIDE / "statistics.md").read_text(), re.MULTILINE)
    assert len(measured) == 6
    for kind, interaction, rates in measured:
        for place, prompts in enumerate((16, 64, 512)):
            three = rates.split()[3 * place : 3 * place + 3]
            shown = " | ".join(f"0{rate}" for rate in three)
            assert f"| {names[kind]} | {'yes' if interaction == '1' else 'no'} | {prompts} | {shown} |" in page
            assert max(map(float, three)) <= 0.06


def test_the_guide_shows_the_seeds_that_power_needs():
    page = (GUIDE / "compare.md").read_text()
    for name, deviations in (("seeds each", (1.0, 1.0)), ("pairs of seeds (`paired=true`)", (1.0, 0.0))):
        needed = [seeds_needed(difference, deviations=deviations) for difference in (0.5, 0.8, 1, 1.5, 2, 3)]
        assert f"| {name} | {' | '.join(map(str, needed))} |" in page
