"""The law of padding: it changes nothing, whether added to a batch or present in a draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from rlx.check.batch import keys_of, parts_of, with_padding
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.law.rows import ROUNDED, gap, outcome_gap
from rlx.check.law.scale import JUMP
from rlx.check.place import throws_dice
from rlx.check.subject import Subject, row_shown
from rlx.data.sequences import Sequences

POWERS = (-2, -1, -0.5, 0.5, 1, 2)  # powers of the padded width to which a wrong weight may be proportional
WIDER = 5  # additional columns of padding


def padding(subject: Subject) -> Finding:
    """Padding of another width or with other values changes nothing; nor does sharing a row among completions."""
    laboratory, batch = subject.stand_in_batch()
    if not parts_of(batch):
        return skipped("the batch has no sequences of its own to pad")
    whole, figures = subject.gradient(laboratory, batch)
    for extra in (1, 4):
        found, other = subject.gradient(laboratory, with_padding(batch, extra))
        off = outcome_gap(found, other, whole, figures)
        if off > laboratory.tolerance:
            return broken(
                f"{extra} more columns of padding change the gradient by {off:.1e} of its largest entry",
                number=f"{off:.0e}",
                where="compute_loss",
                example=f"the loss is {figures['loss']:.6g}, with padding {other['loss']:.6g}; {row_shown(subject, batch, 0)}",
                mend="sum over the completion mask and divide by its counts; .mean(dim=-1) counts the padding",
            )
    if (drawn := _drawn_wider(subject)) is not None:
        return drawn
    return _layouts(subject, passed(f"{laboratory.tolerance:.0e}"))


@contextmanager
def _wide(width: int) -> Iterator[None]:
    """Give all Sequences that are created inside the context at least this width."""
    usual = Sequences.__post_init__

    def at_least(self: Sequences) -> None:
        usual(self)
        object.__setattr__(self, "width", max(self.width, width))

    Sequences.__post_init__ = at_least  # type: ignore[method-assign]
    try:
        yield
    finally:
        Sequences.__post_init__ = usual  # type: ignore[method-assign]


def _drawn_wider(subject: Subject) -> Finding | None:
    """Return a finding if more columns of padding change the weights or advantages of a draw.

    If draw takes random numbers for each token, they differ with the width; then only effects of padding alone count: a gradient
    proportional to a power of the width, or advantages with another offset or scale.
    """
    if subject.goes_past or subject.task.interaction is not None:
        return None
    laboratory, batch = subject.stand_in_batch()
    if len(parts_of(batch)) != 1:
        return None
    gradient, _ = subject.gradient(laboratory, batch)
    (part,) = parts_of(batch)
    width = part.sequences.width
    other = subject.stand_in()  # it draws too, for algorithms with a warm-up
    other.sampler = replace(other.sampler, wider=2 * WIDER)  # type: ignore[call-arg]
    with _wide(width + WIDER):
        try:
            wider = subject.first_update(other)
            if len(parts_of(wider)) != 1 or len(wider) != len(batch):
                return None
            found, _ = subject.gradient(other, wider)
        except Exception as error:  # own tensors may have another width, which is no fault
            subject.untried.append(f"a draw that is {WIDER} columns wider ({type(error).__name__}: {error})")
            return None
    (twin,) = parts_of(wider)
    if twin.sequences.width != width + WIDER or found.shape != gradient.shape or not bool(gradient.any()):
        return None
    one, two = (getattr(each, "advantages", None) for each in (part, twin))
    mask, mask_there = part.sequences.completion_mask, twin.sequences.completion_mask
    if isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == mask.shape and two.shape == mask_there.shape:
        here, there = one[mask].double(), two[mask_there].double()
        if _is_rescaled(here, there):
            return broken(
                f"{WIDER} more columns of padding change the level or the scale of the advantages: their deviation is "
                f"{float(there.std()):.4g} instead of {float(here.std()):.4g}",
                number=f"{float(there.std() / here.std()):.3g}",
                where="draw",
                example=row_shown(subject, part, 0),
                mend="take mean and deviation over the tokens of the mask: advantages[mask].mean(), not advantages.mean()",
            )
    share = float(found.abs().sum() / gradient.abs().sum())
    same = keys_of(part.sequences) == keys_of(twin.sequences)
    if same and gap(found, gradient) > JUMP and not throws_dice(lambda: subject.draw(subject.stand_in())):
        return broken(
            f"{WIDER} more columns of padding, {width + WIDER} instead of {width}, change the gradient by "
            f"{gap(found, gradient):.1e} of its largest entry: what draw makes of tokens reads the padding too",
            number=f"{gap(found, gradient):.0e}",
            where="draw",
            example=row_shown(subject, part, 0),
            mend="take means, quantiles and sums over the tokens of the mask, values[mask], and ranks within it",
        )
    factors = [((width + WIDER) / width) ** power for power in POWERS]
    if not any(gap(found, factor * gradient) <= ROUNDED for factor in factors):
        return None
    return broken(
        f"{WIDER} more columns of padding, {width + WIDER} instead of {width}, change the gradient by a factor of {share:.3g}: "
        "the weights that draw makes depend on the longest completion",
        number=f"{share:.3g}",
        where="draw",
        example=row_shown(subject, part, 0),
        mend="divide by counts of rows or of the mask, not by mask.shape[-1], the padded width",
    )


def _is_rescaled(here: Tensor, there: Tensor) -> bool:
    """Whether the second numbers equal the first ones apart from a common offset and scale, and differ from them."""
    if here.shape != there.shape or len(set(here.tolist())) < 3:  # two always lie on a line
        return False
    x, y = here - here.mean(), there - there.mean()
    slope = float((x * y).sum() / (x * x).sum())
    straight = float((y - slope * x).abs().max()) <= ROUNDED * float(y.abs().max())
    level = float((there.mean() - here.mean()).abs()) / float(x.abs().max())
    return straight and slope > 0 and max(abs(slope - 1), level) > JUMP


def _layouts(subject: Subject, finding: Finding) -> Finding:
    """Compare the real policy's gradients with the completions of a prompt in one row and each in a row of its own."""
    laboratory = subject.real(moved=True)
    if not laboratory.policy.shared_prefix:
        return finding
    batch = subject.first_update(laboratory)[slice(0, 6)]
    shared = subject.gradient(laboratory, batch)[0]
    plain = replace(laboratory, policy=laboratory.policy.with_plain_rows())
    off = gap(subject.gradient(plain, batch)[0], shared, floor=1e-3)
    if off <= 1e-4:
        return passed(f"{off:.0e}")
    return broken(
        f"one row a completion gives another gradient than completions that share their prompt's row, by {off:.1e}",
        number=f"{off:.0e}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="read log-probabilities through policy.token_logprobs or pair_logprobs, which know where padding is",
    )
