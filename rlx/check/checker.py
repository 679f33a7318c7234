"""The contract of an algorithm: the laws that every one keeps, each a function that says whether this one does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

from rlx.check.finding import FAILED, NOT_APPLICABLE, PASSED, Finding, Verdict, broken, holds, skipped
from rlx.check.law.hyperparameter import hyperparameters
from rlx.check.law.learning import direction, draws, falls, runs, update
from rlx.check.law.loss import losses
from rlx.check.law.policy_gradient import alignment, anchor, baseline, clip, temperature
from rlx.check.law.preference import closed_forms, reference
from rlx.check.law.reach import belongs, prompt, reached, tokens
from rlx.check.law.rows import order, padding, split
from rlx.check.law.slope import finite, finite_differences, metrics, repeats
from rlx.check.subject import Subject
from rlx.check.variant import small
from rlx.errors import NonFiniteError, RlxError, users_place

__all__ = [
    "FAILED",
    "LAWS",
    "NOT_APPLICABLE",
    "PASSED",
    "Finding",
    "Subject",
    "Verdict",
    "broken",
    "check_algorithm",
    "holds",
    "skipped",
]

Law = Callable[[Subject], Finding]
LAWS: dict[str, Law] = {
    "runs": runs,
    "repeats": repeats,
    "draws": draws,
    "belongs": belongs,
    "split": split,
    "padding": padding,
    "order": order,
    "prompt": prompt,
    "reached": reached,
    "tokens": tokens,
    "differences": finite_differences,
    "finite": finite,
    "metrics": metrics,
    "closed_forms": closed_forms,
    "direction": direction,
    "reference": reference,
    "temperature": temperature,
    "alignment": alignment,
    "baseline": baseline,
    "clip": clip,
    "anchor": anchor,
    "update": update,
    "falls": falls,
    "hyperparameters": hyperparameters,
    "losses": losses,
}


def check_algorithm(subject: Subject, *, laws: dict[str, Law] | None = None) -> Iterator[Verdict]:
    """The laws' verdicts, one by one. An error that the algorithm raises is a broken law.

    Where not even a plain step can be made, the others would say the same again; only where numbers come from is looked for.
    """
    shortened = subject.with_algorithm(small(subject.algorithm))
    stopped = False
    for name, law in (LAWS if laws is None else laws).items():
        if stopped and law is not finite:
            yield Verdict(name, promise(law), skipped("not tried: the law runs must hold first"))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            finding, raised = tried(law, subject if law is runs else shortened)
        stopped = stopped or (law is runs and raised)
        yield Verdict(name, promise(law), finding)


def promise(law: Law) -> str:
    """The first line of a law's docstring."""
    return (law.__doc__ or "").partition("\n")[0]


def tried(law: Law, subject: Subject) -> tuple[Finding, bool]:
    """What a law says, and whether an error on the way is what it says."""
    try:
        return law(subject), False
    except Exception as error:  # whatever an algorithm under check raises is its verdict
        if isinstance(error, NonFiniteError):  # the advice that a run gives with it is not meant here
            said = str(error).partition(";")[0]
            mend = "mend this first; the law finite says where it comes from"
            return broken(said, where="draw or compute_loss", mend=mend), True
        said = str(error) if isinstance(error, RlxError) else f"{type(error).__name__}: {error}"
        return broken(said, where=_place(error), mend="it raised on the way: mend this first"), True


def _place(error: BaseException) -> str:
    """The innermost line of the user's, else of anything that is no installed package's; a guard of rlx names what it means."""
    import traceback

    if isinstance(error, RlxError) and not users_place(error):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return users_place(error) or (f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "")
