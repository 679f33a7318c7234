import pytest

from rlx.errors import DataError
from rlx.task.curriculum import Curriculum


def test_every_level_from_the_first_on_has_prompts():
    assert Curriculum((1, 0, 2), 0, 0.5, 3).highest == 2
    with pytest.raises(DataError, match="no prompts of level 1, and goes from 0 to 2"):
        Curriculum((0, 2), 0, 0.5, 3)
