import pytest

from rlx.errors import ConfigError, DataError, EvidenceError, RlxError, ShapeError, TrainingError


@pytest.mark.parametrize(
    ("kind", "builtin", "code"),
    [
        (ConfigError, ValueError, 2),
        (DataError, ValueError, 2),
        (EvidenceError, ValueError, 2),
        (ShapeError, ValueError, 1),
        (TrainingError, RuntimeError, 1),
    ],
)
def test_every_error_is_one_of_ours_and_a_builtin_with_its_exit_code(kind, builtin, code):
    error = kind("what is wrong; what to do")
    assert isinstance(error, RlxError)
    assert isinstance(error, builtin)
    assert error.exit_code == code
