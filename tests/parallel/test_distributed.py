import json
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from rlx.errors import ConfigError, TrainingError
from rlx.parallel.distributed import DistributedRanks, RankError, _as_message, join
from rlx.record.directory import this_process
from tests.parallel.group import COUPLED, FEW, SHIPPED, SHIPPED_SHARDED, measured

EXACT, ROUNDED = 1e-12, 5e-6
ALWAYS_ZERO = {"no completion at all"}
WHOLE = [*SHIPPED, *(f"loss {name}" for name in COUPLED), "one row", "exact KL"]
GRADIENTS = [(name, "float64") for name in WHOLE] + [(name, "float32") for name in FEW if "pieces" not in name]


@pytest.fixture(scope="session")
def found():
    return measured()


def ranks(rank, world):
    made = object.__new__(DistributedRanks)
    made.rank, made.world = rank, world
    return made


@pytest.mark.parametrize("tokens", [[1] * 7, [100, 1, 1, 1], [5], [], [0, 0, 0, 0], list(range(50))])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_row_has_one_rank(tokens, world):
    slices = [ranks(rank, world).rows(tokens) for rank in range(world)]
    assert [row for part in slices for row in range(len(tokens))[part]] == list(range(len(tokens)))


def test_ranks_have_equally_many_tokens():
    tokens = [3, 9, 4, 4, 1, 7, 2, 6] * 20
    totals = [sum(tokens[ranks(rank, 4).rows(tokens)]) for rank in range(4)]
    assert max(totals) - min(totals) <= max(tokens) + 1


def test_the_error_of_a_rank_keeps_its_lines():
    try:
        raise ValueError("odd")
    except ValueError as error:
        told = _as_message(error)
    lines = str(ranks(0, 2)._error([(1, told)], None)).splitlines()
    assert (lines[0], lines[-1]) == ("rank 1: Traceback (most recent call last):", "ValueError: odd")
    several = pickle.dumps(TrainingError("first", "second"))
    assert str(ranks(0, 2)._error([(0, several)], None)) == "rank 0: first\nsecond"


def beside_one_that_ends(seconds):
    """Rank 0 of two, whose rank 1 ends after so many seconds."""
    made = ranks(0, 2)
    code = "import json, time; from rlx.record.directory import this_process; print(json.dumps(this_process()), flush=True)"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep({seconds})"], stdout=subprocess.PIPE)
    made._processes, made._count, made.timeout = [this_process(), json.loads(process.stdout.readline())], 1, 60
    made._store = dist.HashStore()
    return made, process


def test_a_rank_that_is_about_to_end_is_not_said_to_hang():
    made, process = beside_one_that_ends(0.3)
    with process:
        assert "ended before a checkpoint" in made._missing("a checkpoint")


def test_a_rank_that_ended_since_it_missed_another_one_is_not_blamed():
    made, process = beside_one_that_ends(0)
    with process:
        process.wait()
    made._processes.append(this_process())  # rank 2, which hangs
    made._store.set("missed/1", "")
    made._store.set("at/1", "1")
    assert made._missing("sampling").startswith("rank 2 (process")


def test_a_rank_that_is_lost_within_a_pass_of_split_weights_is_named():
    def forward():
        raise RuntimeError("pair.cc:537] Read error [127.0.0.1]:29912: Connection reset by peer")

    made, process = beside_one_that_ends(0)
    made.lockstep = SimpleNamespace(is_inside=True)
    with process, pytest.raises(RankError, match=r"rank 1 \(process .*\) ended before an evaluation"):
        made.exchange("an evaluation", forward)


def test_a_process_that_was_not_started_as_a_rank_does_not_wait_for_others(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="ranks=2, and this process was started as one of 1"):
        join(2, timeout=1, device="cpu")


@pytest.mark.whole
@pytest.mark.parametrize(("name", "dtype"), GRADIENTS)
def test_gradients_and_figures_do_not_depend_on_the_number_of_ranks(found, name, dtype):
    result = dict(found[f"{name} {dtype}"])
    assert result.pop("norm") > 1e-9
    assert {"2", "3"} <= set(result)
    limit = EXACT if dtype == "float64" else ROUNDED
    for place, gaps in result.items():
        assert gaps["gradient"] <= limit, place
        assert gaps["metrics"] <= limit, place


@pytest.mark.whole
@pytest.mark.parametrize("name", [*SHIPPED, *(f"loss {name}" for name in COUPLED)])
def test_nor_do_they_when_each_rank_cuts_its_rows(found, name):
    result = found[f"{name} in pieces float64"]
    assert result["norm"] > 1e-9
    assert max(result[world][kind] for world in "23" for kind in ("gradient", "metrics")) <= EXACT


@pytest.mark.whole
@pytest.mark.parametrize("name", ["empty completions", "no completion at all"])
def test_a_rank_without_completions_changes_nothing(found, name):
    result = found[f"{name} float64"]
    assert (result["norm"] == 0) == (name in ALWAYS_ZERO)
    assert max(result[world][kind] for world in "23" for kind in ("gradient", "metrics")) <= EXACT


SHARDED = [(name, "float64", 3) for name in SHIPPED_SHARDED]
SHARDED += [(name, dtype, world) for name in FEW for dtype, world in (("float64", 2), ("float32", 3))]


@pytest.mark.whole
@pytest.mark.parametrize(("name", "dtype", "world"), SHARDED)
def test_a_policy_split_over_ranks_has_the_gradients_and_figures_of_a_whole_one(found, name, dtype, world):
    result = found[f"{name} {dtype} sharded {world}"]
    assert (result["norm"] > 1e-9) == (name not in ALWAYS_ZERO)
    assert max(result["gradient"], result["metrics"]) <= (EXACT if dtype == "float64" else ROUNDED)


@pytest.mark.whole
def test_each_rank_holds_its_share_of_split_weights_and_moments_and_moves_it_like_the_whole(found):
    for world in (2, 3):
        shares = found[f"bytes torch.float64 {world}"]
        assert sum(shares) == pytest.approx(1)
        assert max(shares) <= 1.1 / world
        assert found[f"moved torch.float64 {world}"] <= EXACT


@pytest.mark.whole
def test_weights_and_moments_are_equal_to_the_last_bit_from_two_ranks_to_one_to_three(found):
    assert found["checkpoint 2"] is True
    assert found["checkpoint 3"] is True
