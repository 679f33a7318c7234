"""Places: the line of a user's file where something first happens; this file counts as a user's."""

import random
import time
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch

import rlx
from rlx.check.checker import LAWS, Expressions, check_algorithm
from rlx.check.place import (
    becomes_infinite,
    clock_read,
    drops_out,
    first_change,
    first_result,
    leaves_the_graph,
    loses_digits,
    place_of_method,
    streams_used,
    throws_dice,
)
from rlx.seeding import Stream
from tests.check.checking import failed, subject
from tests.check.faulty import (
    BatchIsChanged,
    Counter,
    DependsOnTheClock,
    DeviationWithoutEpsilon,
    DigitsAreLost,
    Dropout,
    GlobalNumpyGenerator,
    GlobalTorchGenerator,
    NumberOutOfTheGraph,
    Preferences,
    Rewards,
    StateOfTheModule,
)

X = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)


def line_of(place):
    """The source line that a place names."""
    file, _, rest = place.partition(".py:")
    return Path(f"{file}.py").read_text().splitlines()[int(rest.split()[0]) - 1].strip()


@pytest.mark.parametrize(
    ("shows", "expression", "line"),
    [
        (becomes_infinite, lambda: (X + 1).exp().sum() + torch.log(X.detach() - 1).sum(), "torch.log(X"),
        (loses_digits, lambda: (X * 2).bfloat16().sum(), "bfloat16()"),
        (leaves_the_graph, lambda: X.sum().item() + float(X.detach().sum()), ".item()"),
        (drops_out, lambda: torch.nn.functional.dropout(X, 0.5).sum(), "dropout(X"),
    ],
)
def test_the_first_operation_that_shows_something_is_found(shows, expression, line):
    with torch.random.fork_rng():
        place = first_result(expression, shows)
    assert line in line_of(place)
    assert first_result(lambda: X.sum(), shows) == ""


def test_the_line_after_which_something_has_changed_is_found():
    seen = []

    def run():
        first = 1
        seen.append(first)
        return len(seen)

    assert line_of(first_change(run, lambda: bool(seen))) == "seen.append(first)"
    assert first_change(lambda: 1, lambda: False) == ""


def test_a_clock_is_found_however_it_was_imported():
    assert "lambda: perf_counter()" in line_of(clock_read(lambda: perf_counter()))
    assert "lambda: time.time()" in line_of(clock_read(lambda: time.time()))
    assert clock_read(lambda: random.Random(0).random()) == ""


def test_a_method_of_the_users_own_has_a_place_and_an_inherited_one_of_rlx_has_none():
    assert line_of(place_of_method(Preferences(), "compute_loss")).startswith("def compute_loss")
    assert place_of_method(Preferences(), "update_policy") == ""


@pytest.mark.parametrize(
    ("kind", "law", "line", "said"),
    [
        (BatchIsChanged, "repeats", "batch.rewards.zero_()", "compute_loss changes batch.rewards"),
        (GlobalTorchGenerator, "repeats", "return margin + 0.1 * torch.rand_like(margin)", "generator of torch"),
        (GlobalNumpyGenerator, "repeats", "start = int(np.random.randint(0, 4))", "generator of numpy.random"),
        (Dropout, "repeats", "return F.dropout(super().margin(ours, theirs), 0.1)", "dropout"),
        (DependsOnTheClock, "repeats", "time.perf_counter()", "a clock is read"),
        (StateOfTheModule, "repeats", "return LossOutput.of(-F.logsigmoid", "a variable of a module, class or object"),
        (Counter, "repeats", "return LossOutput.of(-logprobs", "a variable of a module, class or object"),
        (DigitsAreLost, "differences", "to(torch.bfloat16)", "digits are lost"),
        (NumberOutOfTheGraph, "differences", ".item()", "the gradient says"),
        (DeviationWithoutEpsilon, "finite", "rewards.std(dim=1, keepdim=True)", "not finite"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_finding_names_the_line(kind, law, line, said):
    finding = failed(kind(), law)[law]
    assert said in finding.wrong
    assert line in line_of(finding.where)


def test_what_a_cause_breaks_as_well_is_said_to_be_the_same_fault():
    wanted = {name: LAWS[name] for name in ("repeats", "split", "direction")}
    verdicts = {
        verdict.law: verdict for verdict in check_algorithm(subject(GlobalTorchGenerator()), laws=wanted) if verdict.failed
    }
    assert verdicts["repeats"].cause == ""
    assert verdicts["split"].cause == "repeats"


def test_a_program_that_starts_a_check_is_no_place_of_a_fault():
    expressions = Expressions(subject(rlx.load("algorithm", "custom_grpo")))
    assert [expressions.line_of(where) for where in ("draw", "compute_loss", "terms['policy']")] == ["", "", ""]


def test_random_numbers_of_a_users_file_are_seen_and_those_of_rlx_are_not():
    def sampled():
        checked = subject(Rewards())
        checked.draw(checked.stand_in())

    assert not throws_dice(sampled)
    assert throws_dice(lambda: Stream(0).numpy())
    assert throws_dice(lambda: torch.randperm(3, generator=torch.Generator().manual_seed(0)))
    assert throws_dice(lambda: np.random.default_rng(0))


def test_the_streams_that_a_users_file_takes_are_told():
    assert streams_used(lambda: Stream(0).child("rows", 3).torch()) == {Stream(0, ("rows", 3))}
    assert streams_used(lambda: rlx.load("algorithm", "custom_grpo")) == set()
