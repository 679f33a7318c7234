"""The display of a running sweep: a live table in a terminal, one line per event elsewhere. Only renders."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rlx.comparison.wording import quantity
from rlx.record.provenance import short_setting
from rlx.report.table import Column, Table, as_lines
from rlx.report.text import duration, one_line, significant

_ENDED = ("completed", "failed", "pruned")
_SHOWN_ENDED = 6  # recently ended jobs in the live table
_STYLES = {"failed": "red", "completed": "green", "pruned": "yellow", "interrupted": "yellow"}


class ShownJob(Protocol):
    """The displayed facts about a job of a sweep."""

    name: str
    state: str
    score: float | None
    step: int | None
    num_steps: int | None
    reason: str | None
    seconds: float | None


@dataclass
class SweepView:
    """Displays jobs that change while it runs. workers: concurrent jobs; total: planned jobs, None if not known yet."""

    jobs: Mapping[str, Any]
    workers: int
    total: int | None = None
    console: Console | None = None

    def __post_init__(self) -> None:
        self._console = self.console or Console(highlight=False, emoji=False)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._ended: list[ShownJob] = []
        self._before = sum(job.state == "completed" for job in self.jobs.values())
        self._drawn = 0.0

    def start(self, lines: Sequence[str]) -> None:
        """Begin the display; the sweep is about to start."""
        for line in lines:
            self._print(line)
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def refresh(self) -> None:
        """Draw the table again, four times a second at most."""
        if self._live is not None and time.monotonic() - self._drawn >= 0.25:
            self._drawn = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def ended(self, job: ShownJob) -> None:
        """Show that a job has ended."""
        self._ended.append(job)
        if self._live is None:
            self._print(f"[{self._count()}] {job.name}: {outcome(job)}{self._left_text()}")

    def note(self, text: str) -> None:
        """Show a note."""
        self._print(text)

    def close(self) -> None:
        """End the display; may be called repeatedly."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def seconds_left(self) -> float | None:
        """An estimate from the jobs that ended in this start; None before the first."""
        done = [job for job in self._ended if job.state in ("completed", "pruned")]
        if not done or self.total is None:
            return None
        waiting = sum(job.state in ("waiting", "running") for job in self.jobs.values())
        waiting += max(0, self.total - len(self.jobs))
        return (time.monotonic() - self._began) / len(done) * waiting

    def _left_text(self) -> str:
        left = self.seconds_left()
        return f"  left {duration(left)}" if left else ""

    def _count(self) -> str:
        ended = sum(job.state in _ENDED for job in self.jobs.values())
        return f"{ended}/{self.total if self.total is not None else len(self.jobs)}"

    def _table(self) -> Group:
        running = [job for job in self.jobs.values() if job.state == "running"]
        table = Table("jobs", _COLUMNS, [*self._ended[-_SHOWN_ENDED:], *running])
        lines = as_lines(table, width=self._console.width, encoding=self._console.encoding)
        waiting = sum(job.state == "waiting" for job in self.jobs.values())
        failed = sum(job.state == "failed" for job in self.jobs.values())
        words = [f"{self._count()} ended", f"{len(running)} running", f"{waiting} waiting", f"{failed} failed" if failed else ""]
        return Group(*lines, Text("  ".join(filter(None, words)) + self._left_text()))

    def _print(self, text: str) -> None:
        console = self._live.console if self._live is not None else self._console
        try:
            console.print(Text(text), soft_wrap=True)
        except (OSError, ValueError):  # the reader of the output is gone
            self._live = None
            self._console = Console(file=open("/dev/null", "w"))  # noqa: SIM115


def _style(job: ShownJob) -> str:
    return _STYLES.get(job.state, "")


def _step_text(job: ShownJob) -> str:
    return "" if job.step is None else f"{job.step}/{job.num_steps}"


def _score_text(job: ShownJob) -> str:
    return "" if job.score is None else significant(job.score)


_COLUMNS = (  # the name is cut if the terminal is narrow
    Column("job", lambda job: job.name, lambda job: job.name, is_text=True, style=_style),
    Column("state", lambda job: job.state, lambda job: job.state, is_text=True, style=_style),
    Column("step", _step_text, lambda job: job.step, style=_style),
    Column("score", _score_text, lambda job: job.score, style=_style),
)


def lasting_console() -> Console:
    """A console on the current standard output, even while jobs of this process redirect it into their logs."""
    out = open(os.dup(1), "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115 (for as long as the program)
    return Console(file=out, highlight=False, emoji=False)


def outcome(job: ShownJob) -> str:
    """`completed, score 0.61, 12 s`, or the state and its reason."""
    parts = [job.state]
    if job.state == "completed" and job.score is not None:
        parts.append(f"score {significant(job.score)}")
    if job.seconds is not None:
        parts.append(duration(job.seconds))
    return ", ".join(parts) + (f": {one_line(job.reason)}" if job.reason else "")


def opening_lines(jobs: Mapping[str, Any], place: Path, *, size: int, repeated: int, goes_on: bool) -> list[str]:
    """The lines before the first job. size: concurrent jobs; repeated: duplicate requests; goes_on: from an earlier start."""
    variants = len({job.variant for job in jobs.values()})
    counts = f"{quantity(len(jobs), 'job')} ({quantity(variants, 'variant')})"
    lines = [f"sweep of {counts} in {os.path.relpath(place)}, {size} at once"]
    if repeated:
        lines.append(f"asked for twice and run once: {quantity(repeated, 'job')}")
    if goes_on:
        done = sum(job.state in _ENDED for job in jobs.values())
        lines.append(f"going on with a sweep of the same plan: {done} of its jobs are done (sweep.new=true begins anew)")
    reused = sum(job.reused_from is not None for job in jobs.values())
    if reused:
        lines.append(f"completed elsewhere with the same config and code: {quantity(reused, 'job')}")
    return lines


def plan_lines(jobs: Sequence[Any]) -> list[str]:
    """The plan for people: the number of jobs, and what differs between them."""
    variants = list(dict.fromkeys(job.variant for job in jobs))
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    shared = [text for text in jobs[0].overrides if all(text in job.overrides for job in jobs)] if jobs else []
    lines = [f"{quantity(len(jobs), 'job')}: {quantity(len(variants), 'variant')} x {quantity(len(seeds), 'seed')}"]
    if len(jobs) > 1 and shared:
        lines.append(f"  all: {' '.join(map(short_setting, shared))}")
    width = max((len(job.name) for job in jobs), default=0)
    for number, job in enumerate(jobs):
        own = [text for text in job.overrides if len(jobs) == 1 or text not in shared]
        lines.append(f"  {number:>4}  {job.name:<{width}}  {' '.join(map(short_setting, own))}")
    return lines


def print_failures(jobs: Sequence[Any], *, place: str, file: Any = None) -> None:
    """The failed jobs with their reasons, shared reasons once, and the end of the log for three of the reasons."""
    failed = [job for job in jobs if job.state == "failed"]
    if not failed:
        return
    out = file or sys.stderr
    print(f"\n{len(failed)} of {len(jobs)} jobs failed:", file=out)
    width = max(len(job.name) for job in failed)
    first_with: dict[str | None, str] = {}
    for job in failed:
        first = first_with.setdefault(job.reason, job.name)
        print(
            f"  {job.name:<{width}}  {one_line(job.reason or 'no reason was left') if first == job.name else f'as {first}'}",
            file=out,
        )
    first_of_reason: dict[str | None, Any] = {}
    for job in failed:
        if job.log_tail:
            first_of_reason.setdefault(job.reason, job)
    for job in list(first_of_reason.values())[:3]:
        print(f"\nthe end of {place}/{job.name}/job.log:", file=out)
        print("\n".join(f"  {one_line(line)}" for line in job.log_tail.splitlines()), file=out)
    out.flush()
