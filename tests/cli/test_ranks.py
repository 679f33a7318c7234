import sys

import pytest
from omegaconf import OmegaConf

from rlx.cli.verb.train import is_first, starts_ranks, with_number
from rlx.config.compose import Composed
from rlx.errors import ConfigError
from rlx.sweep.pool import resources


def composed(ranks, *overrides):
    config = OmegaConf.create({"ranks": ranks})
    return Composed("train", config, {}, overrides, frozenset(), (), ("rlx", "train", *overrides))


@pytest.fixture
def started(monkeypatch):
    def as_rank(number, world):
        named = {"RANK": number, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1234}
        for name, value in named.items():
            monkeypatch.setenv(name, str(value))

    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return as_rank


def test_this_process_starts_as_many_as_are_asked_for(started):
    asked = with_number(composed(3, "ranks=3"))
    assert asked.config.ranks == 3
    assert starts_ranks(asked)
    assert not starts_ranks(with_number(composed(1)))


def test_torchrun_says_how_many_there_are(started):
    started(1, 4)
    for ranks, overrides in ((1, ()), ("auto", ("ranks=auto",)), (2, ()), (4, ("ranks=4",))):
        found = with_number(composed(ranks, *overrides))
        assert found.config.ranks == 4
        assert not starts_ranks(found)
    assert not is_first()


def test_another_number_than_torchrun_has_started_is_refused(started):
    started(0, 4)
    with pytest.raises(ConfigError, match="ranks=2, and 4 ranks were started"):
        with_number(composed(2, "ranks=2"))
    assert is_first()


@pytest.mark.parametrize("wrong", [0, -1, "many", 1.5, True])
def test_what_is_no_number_of_ranks_is_refused(started, wrong):
    with pytest.raises(ConfigError, match="it must be a number of processes, at least 1"):
        with_number(composed(wrong))


@pytest.mark.parametrize(("found", "ranks"), [([], 1), (["0", "1"], 2)])
def test_auto_is_one_a_gpu(started, monkeypatch, found, ranks):
    monkeypatch.setattr(resources, "gpus", lambda: found)
    assert with_number(composed("auto")).config.ranks == ranks


def test_one_rank_imports_nothing_of_it(started):
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("rlx.parallel")}
    try:
        assert not starts_ranks(with_number(composed(1)))
        assert not [name for name in sys.modules if name.startswith("rlx.parallel")]
    finally:
        sys.modules.update(before)
