"""The laws that every algorithm must obey, by name, and the results of testing them on one algorithm."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from rlx.check.finding import FAILED, Finding, Verdict, broken, skipped
from rlx.check.law.advantage import alike, baseline, credit
from rlx.check.law.closed_form import closed_forms
from rlx.check.law.conversation import context, turns
from rlx.check.law.difference import finite_differences
from rlx.check.law.hyperparameter import hyperparameters
from rlx.check.law.learning import direction, falls, runs
from rlx.check.law.length import length
from rlx.check.law.logprob import alignment, temperature
from rlx.check.law.loss import losses
from rlx.check.law.number import metrics, repeats, stays_finite
from rlx.check.law.objective import objective
from rlx.check.law.padding import padding
from rlx.check.law.policy_gradient import clip
from rlx.check.law.reach import belongs, reached
from rlx.check.law.reference import anchor, reference
from rlx.check.law.rows import draws, order, split
from rlx.check.law.token import prompt, tokens
from rlx.check.law.update import update
from rlx.check.place import METHODS, ResultLines, place_of_method
from rlx.check.subject import Subject
from rlx.check.variant import MOST_ROWS, small
from rlx.errors import NonFiniteError, RlxError, users_place

FEW_ROWS = 3  # least rows of an update

Law = Callable[[Subject], Finding]
LAWS: dict[str, Law] = {
    "runs": runs,
    "repeats": repeats,
    "draws": draws,
    "belongs": belongs,
    "alignment": alignment,
    "split": split,
    "padding": padding,
    "order": order,
    "prompt": prompt,
    "reached": reached,
    "context": context,
    "tokens": tokens,
    "differences": finite_differences,
    "finite": stays_finite,
    "metrics": metrics,
    "credit": credit,
    "length": length,
    "closed_forms": closed_forms,
    "direction": direction,
    "reference": reference,
    "temperature": temperature,
    "baseline": baseline,
    "alike": alike,
    "turns": turns,
    "clip": clip,
    "anchor": anchor,
    "objective": objective,
    "update": update,
    "falls": falls,
    "hyperparameters": hyperparameters,
    "losses": losses,
}


# law -> laws that a fault which breaks it usually breaks too; LAWS lists causes before their consequences
FOLLOW: dict[str, set[str]] = {
    "repeats": set(LAWS),
    "belongs": {"split", "padding", "order", "reached", "tokens", "differences", "hyperparameters", "prompt"},
    "split": {"order", "differences", "padding"},
    "padding": {"order", "tokens", "length"},
    "prompt": {"tokens", "padding", "reached", "split"},
    "reached": {"objective", "tokens", "direction", "update", "falls", "hyperparameters", "closed_forms", "clip", "length"},
    "context": {"tokens", "length", "prompt", "belongs"},
    "tokens": {"direction", "order", "alike", "closed_forms", "reference"},
    "differences": {"finite", "split"},
    "direction": {"objective", "reference", "closed_forms", "falls", "clip", "losses", "anchor"},
    "length": {"closed_forms", "finite", "falls", "hyperparameters"},
    "order": {"alike", "baseline"},
    "clip": {"hyperparameters", "losses"},
    "closed_forms": {"hyperparameters"},
    "alignment": {"split", "padding", "tokens", "finite", "length", "direction", "closed_forms", "clip"},
    "credit": {"length"},
    "temperature": {"closed_forms", "hyperparameters"},
    "update": {"falls", "hyperparameters"},
    "anchor": {"hyperparameters", "objective"},
}


def check_algorithm(subject: Subject, *, laws: dict[str, Law] | None = None) -> Iterator[Verdict]:
    """Yield the verdict of each law; an error that the algorithm raises counts as a broken law.

    If the law `runs` raises, no step can be made and the other laws would only repeat the error. They are skipped, except
    `finite`, which locates the origin of a non-finite number. A law that meets the error of an earlier law is not judged; the
    earlier law is its cause.
    """
    shortened = with_rows(subject.with_algorithm(small(subject.algorithm), same_rows=False))
    stopped = False
    found: dict[str, Finding] = {}
    errors: dict[str, Finding] = {}
    roots: dict[str, str] = {}  # broken law -> the first cause in its chain of causes
    expressions = Expressions(shortened)
    for name, law in (LAWS if laws is None else laws).items():
        if stopped and law is not stays_finite:
            yield Verdict(name, promise(law), skipped("not tried: the law runs must hold first"))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            finding, raised = tried(law, subject if law is runs else shortened)
        stopped = stopped or (law is runs and raised)
        if shortened.untried and finding.status != FAILED:
            finding = replace(finding, number="; not tried: ".join([finding.number, *shortened.untried]))
        shortened.untried.clear()
        if first := next((law for law, error in errors.items() if is_same_error(finding, error)), ""):
            yield Verdict(name, promise(law), skipped(f"not judged: it meets the error of the law {first}"), first)
            continue
        if raised:
            errors[name] = finding
        cause = cause_of(name, finding, found)
        finding = placed(finding, subject.algorithm, expressions)
        if cause:
            roots[name] = cause = roots.get(cause, cause)
        yield Verdict(name, promise(law), finding, cause)
        if finding.status == FAILED:
            found[name] = finding


def with_rows(subject: Subject) -> Subject:
    """Return the subject with more rows in a draw if an update has fewer than FEW_ROWS, too few to show effects between rows."""
    names = [name for name in MOST_ROWS if hasattr(subject.algorithm, name)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = len(subject.first_update(subject.stand_in()))
        factor = -(-FEW_ROWS // max(1, rows))
        if rows == 0 or factor == 1 or not names:
            return subject
        more = {name: factor * getattr(subject.algorithm, name) for name in names}
        twin = subject.with_algorithm(replace(subject.algorithm, **more), same_rows=False)
        return twin if len(twin.first_update(twin.stand_in())) > rows else subject
    except Exception:  # the laws meet and report the algorithm's error
        return subject


def cause_of(name: str, finding: Finding, found: Mapping[str, Finding]) -> str:
    """Return the first broken law whose fault probably breaks this one too; empty if there is none, or this law holds."""
    if finding.status != FAILED:
        return ""
    for earlier, other in found.items():
        same_line = finding.where == other.where and ":" in finding.where and finding.wrong == other.wrong
        if earlier == "runs" or name in FOLLOW.get(earlier, ()) or same_line:
            return earlier
    return ""


def is_same_error(one: Finding, other: Finding) -> bool:
    """Whether two broken laws met an error at the same line of code, or errors with the same text."""
    if not one.status == other.status == FAILED:
        return False
    return one.wrong == other.wrong or (":" in one.where and one.where == other.where)


class Expressions:
    """The lines of a user's file that compute the values of a loss and the advantages of a batch; found on first use."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @cached_property
    def _lines(self) -> dict[str, str]:
        """compute_loss, draw and every term -> `FILE:LINE in METHOD`, as far as they could be determined."""
        lines: dict[str, str] = {}
        with suppress(Exception), ResultLines() as made:  # an error was reported before, with its place
            laboratory = self._subject.stand_in()
            with torch.no_grad():
                batch = self._subject.algorithm.draw(laboratory.lab(seed=self._subject.seed))
            lines["draw"] = made.line_of(getattr(batch, "advantages", None))
            made.latest = ""
            output = self._subject.algorithm.compute_loss(laboratory.policy, laboratory.reference, batch)
            lines |= {f"terms[{name!r}]": made.line_of(term.values) for name, term in output.terms.items()}
            lines["compute_loss"] = next(iter(lines[f"terms[{name!r}]"] for name in output.terms), "")
            if not place_of_method(self._subject.algorithm, "compute_loss"):  # the user's loss in an algorithm of rlx
                lines["compute_loss"] = lines["algorithm.loss"] = lines["compute_loss"] or made.latest
        return {name: line for name, line in lines.items() if line}

    def line_of(self, where: str) -> str:
        """Return the line of the term or method that `where` of a finding names first; empty if it is unknown."""
        named = [name for name in self._lines if name in where]
        return self._lines[min(named, key=lambda name: (not name.startswith("terms"), where.index(name)))] if named else ""


def placed(finding: Finding, algorithm: Any, expressions: Expressions | None = None) -> Finding:
    """Return the finding with the file and line of the user's code that it names.

    This is the expression that computes the values of the loss, or the advantages, if it is known, else the method.
    """
    if finding.status != FAILED or ":" in finding.where:
        return finding
    if expressions is not None and (place := expressions.line_of(finding.where)):
        rest = "" if finding.where in place else f" ({finding.where})"
        return replace(finding, where=f"{place}{rest}")
    for method in METHODS:
        if method in finding.where and (place := place_of_method(algorithm, method)):
            rest = "" if finding.where == method else f" ({finding.where})"
            return replace(finding, where=f"{place}{rest}")
    return finding


def promise(law: Law) -> str:
    """Return the first line of a law's docstring."""
    return (law.__doc__ or "").partition("\n")[0]


def tried(law: Law, subject: Subject) -> tuple[Finding, bool]:
    """Return (the law's finding, whether the algorithm raised an error)."""
    try:
        return law(subject), False
    except Exception as error:  # any error of the algorithm is its verdict
        return finding_of(error), True


def finding_of(error: Exception) -> Finding:
    """Return the verdict on an error that the algorithm raised."""
    if isinstance(error, NonFiniteError):
        mend = "fix this first: look there for a logarithm, a root or a quotient that has no value"
        return broken(str(error).partition(";")[0], where="draw or compute_loss", mend=mend)
    said = str(error) if isinstance(error, RlxError) else f"{type(error).__name__}: {error}"
    return broken(said, where=_place(error), mend="it raised on the way: mend this first")


def _place(error: BaseException) -> str:
    """Return the innermost line in the user's file, else in rlx; empty for an error of rlx that passed no user's file."""
    import traceback

    if isinstance(error, RlxError) and not users_place(error):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return users_place(error) or (f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "")
