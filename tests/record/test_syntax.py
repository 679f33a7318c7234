"""Prose changes no hash of code; whatever is executed does."""

import pytest

from rlx.record.sources import syntax_hash

CODE = '''
"""A module."""
import torch

LIMIT = 20.0  # nats


class Loss:
    """A loss."""

    beta: float = 0.1

    def value(self, margin: torch.Tensor) -> torch.Tensor:
        """-log sigma."""
        if margin.ndim != 1:
            raise ValueError(f"margin has shape {margin.shape}, not [B]")
        return -torch.nn.functional.logsigmoid(self.beta * margin.clamp(-LIMIT, LIMIT))
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# nats", "# in nats, the unit of log-probabilities"),
        ('"""A module."""', '"""A module, said in other words."""'),
        ('    """A loss."""\n', ""),
        ('"""-log sigma."""', '"""The negative log-likelihood of the margin."""'),
        ("margin has shape", "the margin is of shape"),
        ("beta: float", "beta: Annotated[float, within(above=0)]"),
        (") -> torch.Tensor:", "):"),
        ("margin.clamp(-LIMIT, LIMIT)", "margin.clamp(\n            -LIMIT,\n            LIMIT,\n        )"),
    ],
)
def test_prose_and_layout_change_nothing(old, new):
    assert old in CODE
    assert syntax_hash(CODE.replace(old, new).encode()) == syntax_hash(CODE.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("20.0", "30.0"),
        ("= 0.1", "= 0.2"),
        ("return -torch", "return torch"),
        ("-LIMIT, LIMIT", "LIMIT, -LIMIT"),
        ("margin.ndim != 1", "margin.ndim != 2"),
        ("ValueError", "TypeError"),
        ("logsigmoid", "softplus"),
        ("self.beta * margin", "self.beta + margin"),
        ("def value", "def values"),
        ("beta: float = 0.1", "beta = 0.1"),
    ],
)
def test_what_is_executed_changes_it(old, new):
    assert old in CODE
    assert syntax_hash(CODE.replace(old, new).encode()) != syntax_hash(CODE.encode())


def test_a_string_that_is_no_prose_counts():
    assert syntax_hash(b"mode = 'mean'") != syntax_hash(b"mode = 'sum'")
    assert syntax_hash(b"def f():\n    return 'a'") != syntax_hash(b"def f():\n    return 'b'")


def test_what_cannot_be_parsed_is_hashed_as_it_is():
    assert syntax_hash(b"def (:  # a") != syntax_hash(b"def (:  # b")
    assert syntax_hash(b"x = '\x00'") == syntax_hash(b"x = '\x00'")
