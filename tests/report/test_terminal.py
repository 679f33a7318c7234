"""What `rlx train` shows in a terminal and elsewhere, and that showing it cannot fail a run."""

import io
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlx.report import terminal
from rlx.report.terminal import TrainView

HOSTILE = "[bold red]x[/] [/nope] \x1b[2J :smile: \ud800\n| end"
SUMMARY = {
    "figures": {"score": (0.5, 0.63456), "kl": (0.0, 1.5), HOSTILE: (None, math.nan)},
    "tokens_per_second": 12345.6,
    "seconds": 200.0,
    "record": f"outputs/{HOSTILE}",
    "next": ["rlx compare outputs/[a]"],
}


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def view(*, is_terminal: bool, width: int = 100, **options: Any) -> tuple[TrainView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=width, highlight=False, emoji=False, color_system=None)
    return TrainView(console, **options), out


def test_plain_lines_one_an_evaluation_and_one_every_few_seconds(clock: Clock) -> None:
    shown, out = view(is_terminal=False, line_seconds=10)
    shown.start({}, num_steps=100)
    shown.evaluated(0, {"eval/score": 0.5})
    for step in range(1, 101):
        clock.now += 1
        if step % 50 == 0:
            shown.evaluated(step, {"eval/score": step / 100})
        shown.step(step, {"train/loss": 0.25, "train/other": 1.0})
    lines = [line for line in out.getvalue().splitlines() if line]
    steps = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert steps == sorted(set(steps))
    assert {0, 50, 100} <= set(steps)
    assert all(later - earlier == 10 for earlier, later in itertools.pairwise(steps))
    assert lines[0] == "step 0/100  score 0.5"
    assert lines[3] == "step 30/100  loss 0.25  score 0.5  left 1 min 10 s"
    assert lines[-1].startswith("step 100/100  loss 0.25  score 1")


def test_a_resumed_run_counts_its_own_steps_for_the_time_left(clock: Clock) -> None:
    shown, out = view(is_terminal=False)
    shown.start({}, num_steps=100, step=80)
    clock.now += 20
    shown.step(90, {"train/loss": 1.0})
    assert "left 20 s" in out.getvalue()


def test_a_bar_in_a_terminal_with_the_newest_figures() -> None:
    shown, out = view(is_terminal=True)
    shown.start({"task": "arithmetic"}, num_steps=4)
    shown.evaluated(0, {"eval/score": 0.5})
    for step in range(1, 5):
        shown.step(step, {"train/loss": step / 8})
    shown.note("half way")
    shown.warn("odd [red]thing[/]")
    shown.close()
    shown.close()
    text = out.getvalue()
    assert "4/4" in text
    assert "loss 0.5  score 0.5" in text
    assert "warning: odd [red]thing[/]" in text
    assert text.count("task") == 1


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("width", [20, 100])
def test_hostile_text_is_shown_as_it_is(is_terminal: bool, width: int) -> None:
    shown, out = view(is_terminal=is_terminal, width=width)
    shown.start({"task": HOSTILE, HOSTILE: ["one", HOSTILE]}, num_steps=2)
    shown.step(1, {"train/loss": math.nan})
    shown.note(HOSTILE)
    shown.finish(SUMMARY)
    text = out.getvalue()
    text.encode()
    assert "\x1b[2J" not in text
    joined = "".join(text.split())
    assert "[boldred]x[/][/nope]\\x1b[2J:smile:\\ud800" in joined


def test_facts_are_one_line_each_when_the_output_is_no_terminal() -> None:
    shown, out = view(is_terminal=False, width=20)
    shown.start({"task": "arithmetic", "policy": "x" * 300, "pairs": ["8192 kept", "3 dropped"], "steps": 200})
    lines = out.getvalue().splitlines()
    assert lines[:5] == ["task    arithmetic", "policy  " + "x" * 300, "pairs   8192 kept", "        3 dropped", "steps   200"]


def test_the_table_at_the_end() -> None:
    shown, out = view(is_terminal=False)
    shown.finish({**SUMMARY, "record": "outputs/train/x"})
    lines = [line.split() for line in out.getvalue().splitlines()]
    for row in (
        ["before", "after"],
        ["score", "0.5", "0.6346"],
        ["kl", "0", "1.5"],
        ["tokens/s", "12,346"],
        ["training", "time", "3", "min", "20", "s"],
    ):
        assert row in lines
    assert ["record", "outputs/train/x"] in lines
    assert lines[-2:] == [["next:"], ["rlx", "compare", "outputs/[a]"]]


def test_warnings_do_not_mix_with_the_output_of_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    shown, out = view(is_terminal=False)
    shown.warn("look")
    assert out.getvalue() == ""
    assert capsys.readouterr().err == "warning: look\n"


def test_output_that_is_gone_silences_the_view_and_fails_nothing() -> None:
    shown, out = view(is_terminal=False)
    shown.start({"task": "x"}, num_steps=2)
    out.close()
    shown.evaluated(1, {"eval/score": 0.5})
    shown.note("more")
    shown.finish(SUMMARY)


def test_a_reader_that_leaves_does_not_end_the_process() -> None:
    code = (
        "import os, sys\n"
        "from rlx.report.terminal import TrainView\n"
        "view = TrainView()\n"
        "os.close(int(sys.argv[1]))\n"
        "view.start({'task': 'x'}, num_steps=2)\n"
        "view.evaluated(1, {'eval/score': 0.5})\n"
        "print('more'); view.finish({'record': 'x'})\n"
        "print('alive', file=sys.stderr)\n"
    )
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(read)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[read],
        cwd=Path(__file__).parents[2],
    )
    os.close(read)
    os.close(write)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "alive\n")


def test_a_bar_leaves_room_for_an_interrupt_that_the_terminal_echoes():
    import io

    from rich.cells import cell_len
    from rich.text import Text

    from rlx.report.terminal import TrainView, _Console

    file = io.StringIO()
    view = TrainView(_Console(file=file, force_terminal=True, width=80))
    view.start({}, num_steps=10)
    view.step(3, {"train/loss": 0.5})
    view.close()
    lines = [Text.from_ansi(part).plain for line in file.getvalue().splitlines() for part in line.split("\r")]
    assert any("3/10" in line for line in lines)
    assert max(map(cell_len, lines)) <= 76
