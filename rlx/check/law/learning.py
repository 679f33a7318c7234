"""Laws of learning: a step runs, learns in the right direction, and its objective falls."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need, require_figures
from rlx.check.batch import against_rewards, parts_of, recast, signature
from rlx.check.finding import FAILED, PASSED, Finding, broken, passed, skipped
from rlx.check.law.bonus import bonus_lowers
from rlx.check.law.constant import never_moves
from rlx.check.law.coupling import level_is_live
from rlx.check.law.demonstration import demonstrated, imitated, of_logits
from rlx.check.law.difference import HeldConstants
from rlx.check.law.policy_gradient import reads
from rlx.check.law.preference import FLAT, places_decide, preferred, turned_where_likely
from rlx.check.law.side import sides_exchanged
from rlx.check.stand_in import ScriptedSampler
from rlx.check.stand_in_task import reward_of, stand_in_task
from rlx.check.subject import (
    LATER_STEPS,
    REAL_TOLERANCE,
    Laboratory,
    Subject,
    completion_gradients,
    learns_elsewhere,
    reads_logprobs,
    row_shown,
    trainable_copy,
)
from rlx.optimizer.step import Optimizer
from rlx.seeding import Stream
from rlx.task.base import Task

STEPS, RATES = 8, (3e-4, 3e-5)  # updates, and learning rates of Adam: at the first, a steep loss may rise
NUDGE = 1.01  # a factor for a detached tensor
UNLIKELY = 3.0  # nats a token by which all completions are less likely; gradients must keep their directions
OBJECTIVES = {AlgorithmType.PREFERENCE_LEARNING, AlgorithmType.SUPERVISED}


def runs(subject: Subject) -> Finding:
    """A training step on the real policy and sampler draws, updates and moves the policy, and changes nothing else."""
    laboratory = subject.warmed(_as_in_a_run(subject, subject.small_task))
    policy = laboratory.policy
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    optimizer = subject.optimizer(laboratory)
    batch = subject.draw(laboratory)
    updates = 0
    for part in subject.algorithm.updates(batch, Stream(subject.seed, ("updates", 0))):
        source = subject.accumulate(subject.algorithm, policy, subject.reference, part, micro_batch=None)
        require_figures(subject.algorithm.update_policy(source, optimizer), by=subject.algorithm)
        updates += 1
        if updates == 4:  # further updates show nothing new
            break
    updated, kept = [parameter.detach().clone() for parameter in policy.parameters()], signature(laboratory.state)
    with torch.no_grad():
        extra = subject.algorithm.validate(laboratory.lab())
    if signature(laboratory.state) != kept or not all(map(torch.equal, updated, policy.parameters())):
        what = "lab.state" if signature(laboratory.state) != kept else "the policy's weights"
        return broken(
            f"validate changes {what}: how often a run measures decides what it learns",
            where="validate",
            mend="validate measures alone; what lasts is written by draw, and weights are moved by update_policy",
        )
    if not all(isinstance(value, (int, float)) for value in extra.values()):
        return broken("validate returns what is no number", where="validate", mend="return plain numbers")
    if updates == 0 and not _moves_on_other_rewards(subject):
        return broken("updates yields no batch", where="updates", mend="yield at least one batch a draw")
    moved = any(not torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))
    if not moved and not _moves_on_other_rewards(subject):
        return _stands_still(subject, laboratory)
    return passed("; ".join([f"{updates} updates", *_remarks(subject, batch)]))


def _as_in_a_run(subject: Subject, task: Task) -> Laboratory:
    """Return a laboratory of the real policy and sampler on a task."""
    return Laboratory(task, trainable_copy(subject.policy), subject.reference, subject.sampler, REAL_TOLERANCE)


def _moves_on_other_rewards(subject: Subject) -> bool:
    """Whether an update changes the policy at random rewards: the task's rewards may all be equal."""
    if Need.REWARDS not in subject.needs:
        return False
    laboratory = subject.warmed(_as_in_a_run(subject, stand_in_task(subject.small_task)))
    laboratory.sampler = ScriptedSampler.of(subject.sampler, None)
    before = [parameter.detach().clone() for parameter in laboratory.policy.parameters()]
    batch = subject.first_update(laboratory)
    source = subject.accumulate(subject.algorithm, laboratory.policy, subject.reference, batch, micro_batch=None)
    subject.algorithm.update_policy(source, subject.optimizer(laboratory))
    return any(not torch.equal(old, new) for old, new in zip(before, laboratory.policy.parameters(), strict=True))


def _stands_still(subject: Subject, laboratory: Laboratory) -> Finding:
    """Return the finding about an update that leaves the policy unchanged: it makes no step, or there is no gradient."""
    part = subject.first_update(replace(laboratory, policy=trainable_copy(subject.policy)))
    laboratory = replace(laboratory, policy=trainable_copy(subject.policy))
    if len(part) and bool(subject.gradient(laboratory, part)[0].any()):
        return broken(
            "an update leaves the policy where it was, though the loss has a gradient",
            where="update_policy",
            mend="end it with optimizer.step(gradients()['loss'], self.clipping)",
        )
    advantages, rewards = (getattr(part, name, None) for name in ("advantages", "rewards"))
    if len(part) and not any(bool(term.weights.any()) for term in subject.loss(laboratory, part).terms.values()):
        return broken(
            f"nothing is learned: all weights are 0 at step 0, and none of the steps {', '.join(map(str, LATER_STEPS))} teaches",
            where="draw",
            mend="a schedule ends where it shall: min(1.0, lab.step / steps)",
        )
    if isinstance(advantages, Tensor) and isinstance(rewards, Tensor) and not bool(advantages.any()):
        return broken(
            "nothing is learned: all advantages are 0, whatever the rewards are",
            where="draw",
            example=row_shown(subject, part, 0) if len(part) else "",
            mend="an advantage is reward minus baseline; a baseline that is each completion's own reward leaves nothing. "
            "sample_groups gives the same completions where it is called again at a step: another attempt= gives others",
        )
    return broken(
        "nothing is learned: the loss has no gradient where the policy is its reference and its sampler, as when a run begins",
        where="compute_loss",
        example=row_shown(subject, part, 0) if len(part) else "",
        mend="look for what is flat there: a clamp on the wrong side, a hinge without a margin, what is detached",
    )


def _remarks(subject: Subject, batch: Any) -> list[str]:
    """Return remarks that report no fault but may be unexpected."""
    remarks = []
    if subject.makes_scores_up:
        remarks.append("with made-up scores where the task's pairs have none")
    covered = sum(len(part) for part in subject.algorithm.updates(batch, Stream(subject.seed, ("updates", 0))))
    if covered < len(batch):
        remarks.append(f"updates leave out {len(batch) - covered} of {len(batch)} rows")
    rewards = getattr(batch, "rewards", None)
    if isinstance(rewards, Tensor) and rewards.numel() > 1 and bool((rewards == rewards.flatten()[0]).all()):
        remarks.append(f"all {rewards.numel()} rewards are {float(rewards.flatten()[0]):g}: nothing is learned from them")
    return remarks


def falls(subject: Subject) -> Finding:
    """If the loss is an objective, a few updates on one batch lower it, with declared constants fixed in each."""
    if subject.algorithm.kind not in OBJECTIVES:
        return skipped("the loss is a surrogate; see direction")
    if not subject.goes_past and (found := never_moves(subject)) is not None:
        return found
    for rate, moved, falling in itertools.product(RATES, (True, False), (_losses, _losses_with_constants)):
        laboratory = subject.real(moved=moved)  # at policy = reference, a loss may be at its minimum
        batch = subject.first_update(laboratory)[slice(0, 6)]
        if len(batch) == 0:
            return skipped("the batch is empty")
        losses = falling(subject, laboratory, batch, rate)
        number = f"{losses[0]:.4g} -> {losses[-1]:.4g}"
        if losses[-1] <= losses[0] and min(losses[1:]) < losses[0]:
            held = falling is _losses_with_constants
            return (_constant_is_added(subject, laboratory, batch) if held else None) or passed(number)
        if max(losses) - min(losses) <= FLAT and losses[0] <= FLAT:  # it stays at its minimum
            return passed(f"{number}, at its minimum")
    return broken(
        f"{STEPS} updates on one batch take the loss from {losses[0]:.6g} to {losses[-1]:.6g}",
        number=number,
        where="compute_loss or update_policy",
        example=row_shown(subject, batch, 0),
        mend="look for a sign: the optimiser goes down, so a likelihood enters the loss with a minus; and for what is detached",
    )


def _losses(subject: Subject, laboratory: Laboratory, batch: Any, rate: float) -> list[float]:
    """Return the loss before each of a few updates on one batch."""
    optimizer = _adam(subject, laboratory, rate)
    losses = []
    for _ in range(STEPS):
        source = subject.accumulate(subject.algorithm, laboratory.policy, laboratory.reference, batch, micro_batch=len(batch))
        subject.algorithm.update_policy(source, optimizer)
        losses.append(source.metrics["loss"])
    return losses


def _losses_with_constants(subject: Subject, laboratory: Laboratory, batch: Any, rate: float) -> list[float]:
    """Return the loss before a few updates, followed by that loss plus the changes by single updates with fixed constants.

    A weight computed from the policy's probabilities, for example, is a constant of an update. It rises as the policy learns, and
    with it the recomputed loss.
    """
    optimizer, laboratory = _adam(subject, laboratory, rate), replace(laboratory, policy=_never_held(laboratory.policy))
    losses = [float(subject.loss(laboratory, batch).loss.detach())]  # the reference caches its values
    for _ in range(STEPS):
        held = HeldConstants()
        with held:
            before = subject.loss(laboratory, batch).loss
        source = subject.accumulate(subject.algorithm, laboratory.policy, laboratory.reference, batch, micro_batch=len(batch))
        subject.algorithm.update_policy(source, optimizer)
        with held.replay():
            after = subject.loss(laboratory, batch).loss
        losses.append(losses[-1] + float((after - before).detach()))
    return losses


def _constant_is_added(subject: Subject, laboratory: Laboratory, batch: Any) -> Finding | None:
    """Return a finding if a detached tensor changes the loss but no gradient; the loss falls only with fixed constants.

    A detached weight changes the gradient; a detached summand has no effect on learning, so it was meant to carry a gradient.
    """
    laboratory = replace(laboratory, policy=_never_held(laboratory.policy))
    held = HeldConstants()
    with held:
        subject.loss(laboratory, batch)
    kept = list(held.kept)

    def measured() -> tuple[float, Tensor]:
        with held.replay():
            loss = subject.loss(laboratory, batch).loss
        found = torch.autograd.grad(loss, laboratory.policy.parameters(), allow_unused=True)
        return float(loss.detach()), torch.cat([torch.zeros(0), *(part.reshape(-1) for part in found if part is not None)])

    loss, gradient = measured()
    for index, place in held.undeclared.items():
        held.kept = [*kept[:index], kept[index] * NUDGE, *kept[index + 1 :]]
        other, moved = measured()
        if abs(other - loss) > FLAT and torch.equal(moved, gradient):
            return broken(
                f"{STEPS} updates on one batch raise the loss: a part of it is detached, so that it changes the loss "
                f"({loss:.6g} to {other:.6g} where it is {NUDGE:g} times as large) and no gradient",
                number=f"{other - loss:+.1e}",
                where=place or "compute_loss",
                example=row_shown(subject, batch, 0),
                mend="let it carry its gradient; a constant on purpose is written rlx.loss.stop_gradient(x)",
            )
    return None


def _never_held(policy: Any) -> Any:
    """Return the policy with log-probabilities that HeldConstants does not store.

    They may come from an autograd function, which disables gradients inside, as code that makes a constant does.
    """

    def token_statistics(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return type(policy).token_statistics(self, *args, **kwargs)

    return recast(policy, type(type(policy).__name__, (type(policy),), {"token_statistics": token_statistics}))


def _adam(subject: Subject, laboratory: Laboratory, rate: float) -> Optimizer:
    optimizer = subject.optimizer(laboratory)
    optimizer.torch_optimizer = torch.optim.Adam(laboratory.policy.parameters(), lr=rate)
    return optimizer


def direction(subject: Subject) -> Finding:
    """Raising chosen and lowering rejected log-probabilities lowers the loss; rewarded completions are pushed up, others down."""
    found = of_logits(subject) if subject.goes_past else level_is_live(subject) or bonus_lowers(subject)
    found = found or sides_exchanged(subject) or _directed(subject, depth=0.0)
    if found.status != PASSED:
        return found
    if not subject.goes_past and (turned := turned_where_likely(subject)) is not None:
        return turned
    unlikely = _directed(subject, depth=UNLIKELY)
    if unlikely.status != FAILED:
        return found
    return replace(unlikely, wrong=f"where every token is {UNLIKELY:g} nats less likely, under all alike: {unlikely.wrong}")


def _directed(subject: Subject, *, depth: float) -> Finding:
    """Return in which direction completions are pushed at policy = reference = sampler. depth: nats by which all are lower."""
    laboratory, batch = subject.stand_in_batch(spread=0.0, depth=depth)
    gradient, _ = subject.gradient(laboratory, batch)
    if not reads_logprobs(laboratory):
        return skipped("the loss does not read token log-probabilities through the policy")
    if learns_elsewhere(laboratory, gradient):
        return skipped("what is learned is a distribution over the vocabulary, or a critic's values")
    if depth and not bool(gradient.any()):
        return _counts_and_teaches_nothing(subject, laboratory, batch)
    numbers = []
    for part in parts_of(batch):
        rows = completion_gradients(laboratory, part, gradient)
        slopes = [torch.stack([values.sum() for values in group]) for group in rows]
        if Need.REWARDS in subject.needs and part.sequences.group_size > 1 and not _is_pairs(subject, part):
            found = places_decide(subject, laboratory, batch, part) or _rewarded(subject, laboratory, part, rows)
        elif part.sequences.group_size == 2 and subject.algorithm.kind is not AlgorithmType.SUPERVISED:
            found = preferred(subject, laboratory, batch, part, slopes, begins=depth == 0)
        elif part.sequences.group_size == 2 and _is_pairs(subject, part):
            found = imitated(subject, part, slopes)
        elif part.sequences.group_size == 1 and Need.REWARDS not in subject.needs:
            found = demonstrated(subject, part, slopes)
        else:
            continue
        if isinstance(found, Finding):
            return found
        numbers.append(found)
    return passed(", ".join(numbers)) if numbers else skipped("the batch holds neither pairs nor rewarded groups")


def _counts_and_teaches_nothing(subject: Subject, laboratory: Laboratory, batch: Any) -> Finding:
    """Return the finding about a batch without a gradient; completions that are left out on purpose are not part of the loss."""
    size = len(laboratory.policy.leaves["token_logprobs"])
    counted = any(
        bool((term.values * term.weights.to(term.values)).ne(0).any())
        and reads(term.values, laboratory.policy.leaves["token_logprobs"])
        for term in subject.loss(laboratory, batch).terms.values()
    )
    if not counted:
        return skipped("what is unlikely is left out of the loss")
    return broken(
        "completions count in the loss, but nothing is learned of any",
        number=f"0/{size} tokens",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="a log-probability that is cut off, clamp(min=...), has no gradient beyond: clamp a ratio or an exponent; to leave "
        "unlikely tokens out on purpose, let their value be 0",
    )


def _is_pairs(subject: Subject, part: Any) -> bool:
    return subject.reads_pairs and not hasattr(part, "rewards")


def _rewarded(subject: Subject, laboratory: Laboratory, part: Any, rows: list[list[Tensor]]) -> Finding | str:
    """Test that the sum over groups of (reward - mean of the group) times the slope of the loss is negative."""
    total, worst, shown = 0.0, 0.0, 0
    slopes = [torch.stack([values.sum() for values in group]) for group in rows]
    for row, group in enumerate(part.sequences.completions):
        texts = [subject.policy.decode(tokens) for tokens in group]
        rewards = torch.tensor([reward_of(text) for text in texts], dtype=torch.float64)
        kept = getattr(part, "kept", None)
        keep = torch.ones(len(group), dtype=torch.bool) if kept is None else kept[row].cpu()
        pushed = float((((rewards - rewards.mean()) * slopes[row])[keep]).sum())
        total += pushed
        if pushed > worst:
            worst, shown = pushed, row
    if total < 0:
        return f"{total:.1e}"
    if all(not bool(slope.any()) for slope in slopes):
        return broken(
            "rewards push no completion anywhere",
            where="compute_loss",
            mend="are the advantages all 0, the ratio detached, or both of its log-probabilities live, so that their gradients "
            "cancel? The old one is batch.sampling_logprobs",
        )
    if _ratio_is_live(laboratory, part, rows):
        return broken(
            "a token teaches 1 + log p times what it should, so that those less likely than 1/e go the wrong way: the importance "
            "weight before the log-probability has a gradient of its own",
            number=f"{total:+.1e}",
            where="compute_loss",
            example=row_shown(subject, part, shown),
            mend="a weight of a log-probability is a constant: -stop_gradient(ratio) * A * logprobs; a ratio with a gradient "
            "stands alone, -ratio * A",
        )
    return broken(
        f"raising better rewarded completions raises the loss (reward times slope is {total:+.2e}, it must be negative)",
        number=f"{total:+.1e}",
        where="draw" if against_rewards(part) else "compute_loss",
        example=row_shown(subject, part, shown),
        mend="the surrogate enters the loss with a minus: -(ratio * advantage); an advantage is reward minus baseline",
    )


def _ratio_is_live(laboratory: Laboratory, part: Any, rows: list[list[Tensor]]) -> bool:
    """Whether the slopes at a completion's tokens are in the ratio of 1 + log p, the slope of p / p_0 * log p at p_0."""
    own = laboratory.policy.leaves["token_logprobs"].detach() / part.temperature
    logprobs = [values for group in completion_gradients(laboratory, part, own) for values in group]
    pairs = [(slope, 1 + each) for slope, each in zip((s for group in rows for s in group), logprobs, strict=True) if slope.any()]
    return bool(pairs) and all(bool((slope * by[0] - slope[0] * by).abs().le(1e-9).all()) for slope, by in pairs)
