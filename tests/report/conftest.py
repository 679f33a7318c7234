import pytest

from rlx.comparison.comparison import compare
from tests.report.pages import write_hostile, write_ordinary


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory):
    return compare(write_ordinary(tmp_path_factory.mktemp("ordinary")), margin=0.03)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    return compare(write_hostile(tmp_path_factory.mktemp("hostile")))
