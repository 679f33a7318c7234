"""The laws that every algorithm keeps, by name, and what came of trying them on one algorithm."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

from rlx.check.finding import Finding, Verdict, broken, skipped
from rlx.check.law.closed_form import closed_forms
from rlx.check.law.difference import finite_differences
from rlx.check.law.hyperparameter import hyperparameters
from rlx.check.law.learning import direction, draws, falls, runs, update
from rlx.check.law.loss import losses
from rlx.check.law.number import metrics, repeats, stays_finite
from rlx.check.law.policy_gradient import alignment, baseline, clip, temperature
from rlx.check.law.reach import belongs, prompt, reached, tokens
from rlx.check.law.reference import anchor, reference
from rlx.check.law.rows import order, padding, split
from rlx.check.subject import Subject
from rlx.check.variant import small
from rlx.errors import NonFiniteError, RlxError, users_place

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
    "finite": stays_finite,
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
    """The verdict of each law, one by one; an error that the algorithm raises on the way is a broken law.

    Where the law `runs` raises, no step can be made and the other laws would only repeat it: they are skipped, except `finite`,
    which looks for the place that a non-finite number comes from.
    """
    shortened = subject.with_algorithm(small(subject.algorithm))
    stopped = False
    for name, law in (LAWS if laws is None else laws).items():
        if stopped and law is not stays_finite:
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
    """(what a law finds, whether the algorithm raised an error on the way)."""
    try:
        return law(subject), False
    except Exception as error:  # whatever an algorithm under check raises is its verdict
        if isinstance(error, NonFiniteError):  # without the advice that a run gives with it
            said = str(error).partition(";")[0]
            mend = "mend this first; the law finite says where it comes from"
            return broken(said, where="draw or compute_loss", mend=mend), True
        said = str(error) if isinstance(error, RlxError) else f"{type(error).__name__}: {error}"
        return broken(said, where=_place(error), mend="it raised on the way: mend this first"), True


def _place(error: BaseException) -> str:
    """The innermost line of the user's own file, else of rlx; empty where rlx refused something and its message says what."""
    import traceback

    if isinstance(error, RlxError) and not users_place(error):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return users_place(error) or (f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "")
