"""Laws of steps as a whole: an update goes down its loss, and steps do not learn from the same few rows for ever."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.algorithm.contract_batch import parts_of
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Subject

RATES = (0.0, 1e-3)  # learning rates of plain gradient descent
UPWARD = 1e-6  # a cosine above this goes up
DRAWN_STEPS = (0, 1, 500)  # a curriculum has gone on by then


def update(subject: Subject) -> Finding:
    """An update goes down the gradient of its loss, and where the learning rate is 0 not up either."""
    cosines = []
    for rate in RATES:
        moved, gradient = _moved(subject, rate)
        if not bool(gradient.any()):
            return skipped("the loss has no gradient here; see reached")
        scale = float(moved.norm() * gradient.norm())
        cosines.append(float(moved @ gradient) / scale if scale else 0.0)
        if cosines[-1] > UPWARD:
            return _upward(cosines[-1], rate)
    return holds(f"{cosines[-1]:.2g}")


def _moved(subject: Subject, rate: float) -> tuple[Tensor, Tensor]:
    """(how far an update at this learning rate moves the policy, the gradient of its loss before), [all parameters] each."""
    setting = subject.stand_in()
    batch = subject.first_update(setting)
    gradient, _ = subject.gradient(setting, batch)
    leaves = setting.policy.parameters()
    before = [leaf.detach().clone() for leaf in leaves]
    source = subject.accumulate(subject.algorithm, setting.policy, setting.reference, batch, micro_batch=max(1, len(batch)))
    subject.algorithm.update_policy(source, subject.optimizer(setting, rate=rate))
    parts = [(leaf.detach() - old).reshape(-1).double() for leaf, old in zip(leaves, before, strict=True)]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]), gradient.double()


def _upward(cosine: float, rate: float) -> Finding:
    if rate:
        wrong = f"an update moves the policy up its loss (the cosine with the gradient is {cosine:+.2f}, it must be negative)"
        mend = "the optimiser goes down by itself: give it the gradient of the loss, not its negative"
    else:
        wrong = "an update at a learning rate of 0 moves the policy, and up its loss"
        mend = "what is added to the weights on the way is taken away again before optimizer.step(...)"
    return broken(wrong, number=f"{cosine:+.2f}", where="update_policy", mend=mend)


def draws(subject: Subject) -> Finding:
    """Steps draw different rows, where the task has more than one step draws."""
    setting = subject.stand_in()
    drawn = [_prompts(subject.draw(setting, step=step)) for step in DRAWN_STEPS]
    if not drawn[0]:
        return skipped("the batch has no sequences of its own")
    sizes = [len(subject.small_task.pairs())] if Need.PAIRS in subject.needs else []
    sizes += [len(subject.small_task.prompts())] if Need.REWARDS in subject.needs else []
    if not sizes or len(drawn[0]) >= min(sizes):
        return skipped("a step draws all there is")
    if all(rows == drawn[0] for rows in drawn):
        return broken(
            f"steps {', '.join(map(str, DRAWN_STEPS))} draw the same {len(drawn[0])} rows, and the task has {min(sizes)}",
            number=f"{len(drawn[0])} of {min(sizes)}",
            where="draw",
            example=repr(subject.policy.decode(parts_of(subject.draw(setting))[0].sequences.prompts[0])),
            mend="lab.rng is the same at every step: what is random comes from lab.rng.child('rows', lab.step); or take "
            "lab.pairs(...) and roll_out(lab, ...), which go through the task",
        )
    return holds(f"{len({row for rows in drawn for row in rows})} of {min(sizes)} in {len(DRAWN_STEPS)} steps")


def _prompts(batch: Any) -> list[bytes]:
    """The tokens of every row's prompt, sorted."""
    return sorted(prompt.tobytes() for part in parts_of(batch) for prompt in part.sequences.prompts)
