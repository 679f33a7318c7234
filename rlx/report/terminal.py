"""Terminal output of a training run (facts, progress, summary) and of a check (one line per law). Only renders."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rlx.report.table import as_lines, table_of_lists
from rlx.report.text import duration, one_line, safe, significant

SHOWN = ("train/loss", "eval/score")  # metrics beside the progress bar
_LINE_SECONDS = 10.0


class _Console(Console):
    """A console that survives a closed pipe; rich would end the process, but a run must continue."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads this output any more")


class _Progress(Progress):
    """A progress bar that leaves room for the `^C` that a terminal echoes, which would wrap on a full line."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield _Narrow(self.make_tasks_table(self.tasks))


class _Narrow:
    """A renderable that leaves the last columns of a line empty."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Constrain(self._inner, max(1, options.max_width - 4))


class TrainView:
    """A progress bar in a terminal; elsewhere plain lines, one per evaluation and one every few seconds in between.

    Output errors cannot fail a run: if its output is gone (a closed pipe, a full disk), it shows nothing more.
    callbacks: called with each step and its metrics; their exceptions end the run. quiet: show only warnings, on stderr.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        line_seconds: float = _LINE_SECONDS,
        callbacks: Sequence[Callable[[int, Mapping[str, float]], object]] = (),
        quiet: bool = False,
    ) -> None:
        self._console = console or _Console(highlight=False, emoji=False, quiet=quiet, force_terminal=False if quiet else None)
        self._callbacks = tuple(callbacks)
        self._line_seconds = line_seconds
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._num_steps: int | None = None
        self._first = 0
        self._began = self._last_line = time.monotonic()
        self._figures: dict[str, float] = {}
        self._silent = False

    def start(self, facts: Mapping[str, Any], *, num_steps: int | None = None, step: int = 0) -> None:
        """The run is about to begin. facts: label -> text, or several texts; num_steps: its last step; step: where it resumes."""
        self._num_steps, self._first = num_steps, step
        self._began = self._last_line = time.monotonic()
        self._guarded(lambda: self._print_facts(facts))
        if self._console.is_terminal and not self._silent:
            self._guarded(lambda: self._start_bar(step))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step was made; metrics may include those of an evaluation."""
        self._keep(metrics)
        for callback in self._callbacks:
            callback(step, metrics)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, figures=self._figure_text())
        elif time.monotonic() - self._last_line >= self._line_seconds:
            self._line(step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation was made after `step` steps."""
        self._keep(metrics)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, figures=self._figure_text())
        else:
            self._line(step)

    def note(self, text: str) -> None:
        """Show a note."""
        self._guarded(lambda: self._print(safe(text, self._console.encoding)))

    def warn(self, text: str) -> None:
        """Show a warning; on stderr if the output is not a terminal."""
        message = f"warning: {safe(text, self._console.encoding)}"
        if self._console.is_terminal:
            self._guarded(lambda: self._print(message, style="yellow"))
        else:
            self._guarded(lambda: print(message, file=sys.stderr, flush=True))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is done.

        summary: `figures` name -> (before, after); `tokens_per_second`, `seconds`, `record` and other facts;
        `next`: commands to try.
        """
        self.close()
        self._guarded(lambda: self._print_summary(dict(summary)))

    def close(self) -> None:
        """End the progress bar; may be called repeatedly."""
        progress, self._progress = self._progress, None
        if progress is not None:
            self._guarded(progress.stop)

    def _keep(self, metrics: Mapping[str, float]) -> None:
        self._figures.update({name: metrics[name] for name in SHOWN if name in metrics})

    def _figure_text(self) -> str:
        return "  ".join(
            f"{name.partition('/')[2]} {significant(self._figures[name])}" for name in SHOWN if name in self._figures
        )

    def _start_bar(self, step: int) -> None:
        columns = (
            *(BarColumn(bar_width=None), MofNCompleteColumn()),
            TextColumn("{task.fields[figures]}", markup=False),
            *(TextColumn("left", markup=False), TimeRemainingColumn(compact=True)),
        )
        self._progress = _Progress(*columns, console=self._console, refresh_per_second=5, expand=True)
        self._task = self._progress.add_task("", total=self._num_steps, completed=step, figures="")
        self._progress.start()

    def _line(self, step: int) -> None:
        now = self._last_line = time.monotonic()
        of = "" if self._num_steps is None else f"/{self._num_steps}"
        parts = [f"step {step}{of}", self._figure_text()]
        if self._num_steps is not None and self._first < step < self._num_steps:
            parts.append(f"left {duration((now - self._began) / (step - self._first) * (self._num_steps - step))}")
        self._guarded(lambda: self._print("  ".join(filter(None, parts))))

    def _print_facts(self, facts: Mapping[str, Any]) -> None:
        rows = []
        for label, value in facts.items():
            several = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
            rows += [(label if place == 0 else "", text) for place, text in enumerate(several)]
        self._print_pairs(rows)
        self._print("")

    def _print_pairs(self, rows: Sequence[tuple[Any, Any]]) -> None:
        """Print two columns without borders: folded in a terminal, one line each elsewhere."""
        encoding = self._console.encoding
        cells = [(one_line(label, encoding), one_line(significant(value), encoding)) for label, value in rows]
        if self._console.is_terminal:
            table = Table.grid(padding=(0, 2))
            for label, value in cells:
                table.add_row(Text(label, style="bold"), Text(value, overflow="fold"))
            self._console.print(table)
        else:
            width = max((len(label) for label, _ in cells), default=0)
            for label, value in cells:
                self._print(f"{label:<{width}}  {value}")

    def _print_summary(self, summary: dict[str, Any]) -> None:
        figures: Mapping[str, Sequence[Any]] = summary.pop("figures", {})
        commands: Sequence[str] = summary.pop("next", ())
        encoding = self._console.encoding
        self._print("")
        if figures:
            rows = [[name, before, after] for name, (before, after) in figures.items()]
            for line in as_lines(table_of_lists("summary", ("", "before", "after"), rows), encoding=encoding):
                self._console.print(line, soft_wrap=True)
            self._print("")
        for name, show in (("seconds", duration), ("tokens_per_second", significant)):
            if name in summary:
                summary[name] = show(summary[name])
        words = {"seconds": "training time", "tokens_per_second": "tokens/s"}
        self._print_pairs([(words.get(name, name.replace("_", " ")), value) for name, value in summary.items()])
        if commands:
            self._print("\nnext:")
            for command in commands:
                self._print(f"  {one_line(command, encoding)}")

    def _print(self, text: str, *, style: str | None = None) -> None:
        """Print one line without folding, so that it can be copied and searched."""
        self._console.print(Text(text, style=style or ""), soft_wrap=True)

    def _guarded(self, act: Callable[[], object]) -> None:
        if self._silent:
            return
        try:
            act()
        except (OSError, ValueError):  # the reader is gone; ValueError: the file is closed
            self._silent, self._progress = True, None
            _discard(self._console)


def _discard(console: Console) -> None:
    """Redirect a closed standard output to the null device, so that the interpreter's last flush does not fail."""
    try:
        if console.file is sys.stdout:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
    except (OSError, ValueError):
        return


# The output of `rlx check`: one line per law, and details below a broken one.

MARKS = {"passed": "passed", "failed": "FAILED", "not applicable": "n/a"}


def law_lines(verdict: Mapping[str, Any]) -> list[str]:
    """A law's line; of a broken law also what is wrong, where, the smallest example, and how to fix it.

    A law that could not be judged because of an error reported by an earlier law has no line.
    """
    if not_judged(verdict):
        return []
    mark = MARKS[str(verdict["status"])]
    measured = one_line(verdict["number"])
    promise = one_line(verdict["promise"]) if verdict["status"] != "not applicable" else measured
    number = "" if verdict["status"] == "not applicable" or not measured else f"  [{measured}]"
    lines = [f"{mark:<7} {verdict['law']:<16} {promise}{number}"]
    if verdict.get("cause"):
        lines.append(f"        {'cause':<8} probably the same fault as in {verdict['cause']}: fix that first")
    if verdict["status"] == "failed":
        for label, key in (("wrong", "wrong"), ("where", "where"), ("example", "example"), ("fix", "mend")):
            if verdict.get("cause") and key in ("example", "mend"):
                continue
            if verdict[key]:
                lines.append(f"        {label:<8} {safe(verdict[key])}")
    return lines


def not_judged(verdict: Mapping[str, Any]) -> bool:
    """Whether a law failed with an error that an earlier law already reported."""
    return verdict["status"] == "not applicable" and bool(verdict.get("cause"))


def summary_line(subject: str, verdicts: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """One line with the number of laws that hold."""
    counts = {status: sum(verdict["status"] == status for verdict in verdicts) for status in MARKS}
    failed = [verdict for verdict in verdicts if verdict["status"] == "failed"]
    causes = [str(verdict["law"]) for verdict in failed if not verdict.get("cause")]
    follow = [str(verdict["law"]) for verdict in failed if verdict.get("cause")]
    result = f"breaks {', '.join(causes)}" if failed else "keeps every law that concerns it"
    result += f" (probably the same fault: {', '.join(follow)})" if follow else ""
    stopped = [verdict for verdict in verdicts if not_judged(verdict)]
    first = ", ".join(dict.fromkeys(str(verdict["cause"]) for verdict in stopped))
    result += f"; the error of {first} kept {len(stopped)} of the laws from being judged" if stopped else ""
    counts["not applicable"] -= len(stopped)
    return (
        f"{subject} {result}: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['not applicable']} not applicable, in {seconds:.1f} s"
    )


def comparison_lines(subject: str, other: str, found: Mapping[str, Any]) -> list[str]:
    """Whether one function equals another, and where they first differ."""
    result = "is the same function as" if found["same"] else "is not the same function as"
    lines = [f"{subject} {result} {other}"]
    set_here = [f"{name}={mine} (its own {own})" for name, (mine, own) in found["matched"].items()]
    tried = f"{found['tried']}; largest relative difference {found['off']:.1e}"
    rows = [(key, found[key]) for key in ("first", "where", "example", "then", "equal")]
    for label, text in (*rows, ("tried", tried), ("set", f"{other} with {', '.join(set_here)}" if set_here else "")):
        if text:
            lines.append(f"        {label:<8} {safe(text)}")
    return lines


def exact_lines(subject: str, found: Mapping[str, Any]) -> list[str]:
    """Bias and variance of an estimator, on and off policy."""
    aim = "expected reward" if not found["beta"] else f"expected reward - {found['beta']:g} KL(policy || reference)"
    groups = found["on_policy"]["groups"]
    world = f"vocabulary of {found['vocabulary']}, completions of 1 to {found['tokens']} tokens ({found['completions']})"
    drawn = f"groups of {found['group_size']} ({groups}), one prompt a draw, all enumerated"
    lines = [f"{subject}: {world}, {drawn}", f"objective: {aim}"]
    shown = (("sampler = policy", found["on_policy"]), ("another sampler", found["off_policy"]))
    lines.append(f"{'':<44}" + "".join(f"{name:>20}" for name, _ in shown))
    rows = (
        ("bias, share of the mean gradient", "bias"),
        ("cosine with the gradient", "cosine"),
        ("scale, times the gradient", "scale"),
        ("variance, relative to the squared mean", "variance"),
        ("that of REINFORCE with the best baseline", "reinforce"),
        ("beta of the KL that is followed", "beta"),
    )
    for label, key in rows:
        values = [each[key] for _, each in shown]
        if all(value is not None for value in values):
            lines.append(f"{label:<44}" + "".join(f"{value:>20.4g}" for value in values))
    if found["on_policy"]["beta"] is not None:
        kind = (
            "at the states visited: the effect of a token on later states is omitted"
            if found["on_policy"]["at_states"]
            else "of whole completions"
        )
        lines.append(f"the KL that it follows is {kind}")
    return lines


def doctor_lines(facts: Iterable[Mapping[str, Any]]) -> list[str]:
    """The doctor's findings: a mark, a name, what was found and what to do."""
    rows = list(facts)
    width = max((len(str(row["name"])) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row['mark']:<5} {row['name']:<{width}}  {one_line(row['found'])}")
        if row.get("advice"):
            lines.append(f"      {'':<{width}}  {one_line(row['advice'])}")
    return lines
