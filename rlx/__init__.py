"""rlx: a laboratory for post-training algorithms of language models.

From Python: `rlx.load("loss", "ipo", beta=0.5)`, `rlx.train(["algorithm=dpo"])`, `rlx.runs("outputs")`, `rlx.compare(...)`.
Importing rlx imports nothing else; each of these loads what it needs when it is called.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rlx.comparison.comparison import Comparison
    from rlx.record.run import AlgorithmResult, RunRecord

__version__ = "0.1.0"
__all__ = ["compare", "load", "runs", "train"]


def load(group: str, name: str, **overrides: Any) -> Any:
    """One node of `conf/`, composed, checked and instantiated: `rlx.load("loss", "ipo", beta=0.5)`.

    name: an option of the group, or the dotted name of your own class, such as `my_lab.MyLoss`.
    overrides: keys of the node; write `**{"loss.beta": 0.2}` for a nested key. A nested node may also name your own class:
    `rlx.load("task", "environment", environment={"_target_": "my_lab.Guess", "highest": 7})`.
    """
    from rlx.api import load as call

    return call(group, name, overrides)


def runs(path: str | Path = "outputs", *, where: str | None = None) -> list[RunRecord]:
    """The records of the runs at or below a path or glob pattern, oldest first. Imports no torch.

    where: a filter, as in `rlx runs where="loss.beta<0.3 and status=completed"`.
    """
    import time

    from rlx.record.listing import Listed
    from rlx.record.query import keep
    from rlx.record.run import find_runs

    items = [Listed(str(record.directory), record.directory, record, time.time()) for record in find_runs(path)]
    return [item.record for item in keep(items, where, facts=lambda item: item.facts)]


def train(
    overrides: Sequence[str] = (),
    *,
    callbacks: Sequence[Callable[[int, Mapping[str, float]], object]] = (),
    quiet: bool = False,
) -> AlgorithmResult:
    """Train once, as `rlx train OVERRIDES` does, and return the result: `rlx.train(["algorithm=dpo", "seed=3"])`.

    callbacks: each is called after every step with the step's number and metrics (`train/loss`; `eval/score` at an
    evaluation; ...). An exception raised by a callback ends the run. quiet: print only warnings, on stderr.
    """
    from rlx.api import train as call

    return call(overrides, callbacks=callbacks, quiet=quiet)


def compare(runs: Any, **choices: Any) -> Comparison:
    """Compare run records, or the runs at or below paths. Imports no torch.

    choices: keys of `rlx compare` that affect the result (baseline, metric, paired, margin, where, ...), not those that name
    output files: `rlx.compare("outputs/sweep/latest", margin=0.02)` writes nothing.
    """
    from rlx.comparison.comparison import compare as call

    return call(runs, **choices)


def _find_conf() -> None:
    """In a bare checkout, make the folder conf/ beside rlx/ importable as rlx.conf, as it is in an installed package."""
    beside = Path(__file__).resolve().parents[1] / "conf"
    file = beside / "__init__.py"
    if importlib.util.find_spec("rlx.conf") is None and file.is_file():
        spec = importlib.util.spec_from_file_location("rlx.conf", file, submodule_search_locations=[str(beside)])
        assert spec is not None
        conf = importlib.util.module_from_spec(spec)
        sys.modules["rlx.conf"] = conf
        sys.modules[__name__].__dict__["conf"] = conf


_find_conf()
