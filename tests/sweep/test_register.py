"""The sweeper is known to Hydra wherever rlx comes from."""

import sys

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from rlx.sweep import register


def test_it_may_be_installed_twice():
    register.install()
    register.install()
    found = [kind.__name__ for kind in Plugins.instance().discover(Sweeper)]
    assert found.count("RlxSweeper") == 1
    assert sys.modules[register.NAME].RlxSweeper.__module__ == register.NAME
