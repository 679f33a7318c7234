from pathlib import Path

import pytest

import rlx.data
from rlx.data.remarks import REFUSED, REMARKS

SOURCE = "".join(file.read_text() for file in Path(rlx.data.__path__[0]).glob("*.py") if file.name != "remarks.py")


def test_each_remark_has_a_bit_of_32():
    assert len(REMARKS) < 32
    assert not REMARKS.keys() & REFUSED.keys()


@pytest.mark.parametrize("reason", [*REMARKS, *REFUSED])
def test_what_can_be_said_of_an_example_is_said_somewhere(reason):
    assert f'"{reason}"' in SOURCE
