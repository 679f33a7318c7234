"""A module of the user's own, `lab_of_<n>`, on the Python path."""

import importlib
import itertools
import sys

import pytest

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

from rlx.algorithm import Algorithm, AlgorithmType, Need
from rlx.loss.preference.margin import dpo
from rlx.policy.base import Policy


@dataclass(frozen=True, kw_only=True)
class Bare(Algorithm):
    """Brings a loss of its own; one key has no default."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.PREFERENCE_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})
    loss: dpo = dpo(beta=0.3)
    extra: float = 0.5
    size: int


@dataclass(frozen=True, kw_only=True)
class MyLoss(dpo):
    gamma: float = 1.0


class NotOne:
    pass


def my_policy(path: str, depth: int = 2) -> Policy:
    raise RuntimeError("never called")


def returns_nothing(path: str) -> None:
    raise RuntimeError("never called")
'''

_count = itertools.count()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The name of a fresh module with the classes above."""
    name = f"lab_of_{next(_count)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)
