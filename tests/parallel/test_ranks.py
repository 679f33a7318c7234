import inspect

import pytest

from rlx.parallel.distributed import DistributedRanks
from rlx.parallel.ranks import ALONE, Ranks

METHODS = [name for name, value in vars(Ranks).items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", METHODS)
def test_several_ranks_leave_no_method_to_the_class_of_a_single_process(name):
    own = vars(DistributedRanks)[name]
    told = inspect.signature(own).parameters
    assert list(told.values()) == list(inspect.signature(getattr(Ranks, name)).parameters.values())


def test_a_single_process_has_all_rows_and_its_own_results():
    assert [1, 5, 2][ALONE.rows([1, 5, 2])] == [1, 5, 2]
    assert (ALONE.exchange("a draw", lambda: 3), ALONE.together("a draw", lambda: 4), ALONE.agree(2, 7)) == ([3], 4, (2, 7))
    with pytest.raises(KeyError, match="gone"):
        ALONE.from_first("a draw", lambda: {}["gone"])
