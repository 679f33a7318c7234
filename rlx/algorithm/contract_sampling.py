"""Laws of what was sampled: at which temperature, and what is taken away from its rewards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from rlx.algorithm.base import Need
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_stand_in import StandInPolicy
from rlx.algorithm.contract_subject import Setting, Subject, row_shown

FACTOR = 1.25  # of the sampler's own temperature
BONUS = 0.25  # that every reward is higher by
STRAIGHT = 1e-4  # an advantage lies this near to a line of the rewards, or it is none


def temperature(subject: Subject) -> Finding:
    """A policy whose log-probabilities are compared with those of the sampler is read at the sampler's temperature."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return skipped("no completions are sampled, or the loss reads the model itself")
    setting = subject.stand_in()
    hotter = FACTOR * subject.sampler.temperature
    setting.sampler = replace(setting.sampler, temperature=hotter)
    batch = subject.first_update(setting)
    sampled = getattr(batch, "sampling_logprobs", None)
    if sampled is None or len(batch) == 0:
        return skipped("the batch holds no sampling log-probabilities of its own")
    assert isinstance(setting.policy, StandInPolicy)
    setting.policy.temperatures.clear()
    gradient, _ = subject.gradient(setting, batch)
    used, theirs = setting.policy.temperatures, setting.reference.temperatures
    moved = batch.with_values(sampling_logprobs=torch.where(batch.completion_mask, sampled - 0.1, 0.0))
    if torch.equal(gradient, subject.gradient(setting, moved)[0]):
        return skipped("the loss does not compare with the sampling log-probabilities")
    if used == {hotter} and theirs and hotter not in theirs:
        return broken(
            f"the policy is read at the sampler's temperature {hotter:g}, but the reference at {_listed_set(theirs)}: where they "
            "are the same model their KL is not 0",
            number=f"{hotter:g}",
            where="draw or compute_loss",
            example=row_shown(subject, batch, 0),
            mend="reference.token_logprobs(batch.sequences, temperature=batch.temperature)",
        )
    if not used or hotter in used:
        return holds(f"{hotter:g}")
    return broken(
        f"completions are sampled at temperature {hotter:g}, but the policy is read at {_listed_set(used)}: "
        "ratios are not 1 where nothing has moved",
        number=f"{hotter:g}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="policy.token_logprobs(batch.sequences, temperature=batch.temperature); the reference's likewise",
    )


def _listed_set(values: set[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))


def baseline(subject: Subject) -> Finding:
    """An advantage that is linear in the rewards of a group takes a baseline between 0 and their mean away, nothing else."""
    if Need.REWARDS not in subject.needs:
        return skipped("nothing is rewarded")
    draws = [_advantages(subject, bonus) for bonus in (0.0, BONUS)]
    if any(found is None for found in draws):
        return skipped("the batch holds no advantages of completions")
    (rewards, before), (others, after) = draws  # type: ignore[misc]
    if rewards.shape != others.shape:
        return skipped("with other rewards another batch is drawn")
    shares = []
    for row in range(len(rewards)):
        slope = _slope(rewards[row], before[row])
        if slope is None or _slope(others[row], after[row]) is None:
            continue
        share = float((after[row] - before[row]).mean()) / (BONUS * slope)
        shares.append(share)
        if not -0.5 <= share <= 1.5:
            return broken(
                f"rewards that are all higher by {BONUS:g} change the advantages of a group by {share:+.2g} times that much: "
                "a baseline is taken away, so it is between 0 (a mean of the group) and 1 (none)",
                number=f"{share:.2g}",
                where="draw",
                example=f"rewards {_listed(rewards[row])} -> advantages {_listed(before[row])}",
                mend="an advantage is reward minus baseline: rewards - rewards.mean(dim=1, keepdim=True)",
            )
    return (
        holds(f"{sum(shares) / len(shares):.2g} of a shift is left")
        if shares
        else skipped("advantages are not linear in rewards")
    )


def _advantages(subject: Subject, bonus: float) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(rewards [P, G], advantages [P, G]) of a draw whose rewards are higher by `bonus`."""
    setting: Setting = subject.stand_in(spread=0.0, bonus=bonus)
    batch: Any = subject.first_update(setting)
    found = getattr(batch, "advantages", None)
    if found is None or found.ndim != 2 or found.shape != batch.rewards.shape:
        return None
    return batch.rewards.double(), found.double()


def _slope(rewards: torch.Tensor, advantages: torch.Tensor) -> float | None:
    """Of the line through (reward, advantage); None where they lie on no line, or on a level one."""
    x, y = rewards - rewards.mean(), advantages - advantages.mean()
    if float(x.abs().max()) < STRAIGHT:
        return None
    slope = float((x * y).sum() / (x * x).sum())
    straight = float((y - slope * x).abs().max()) <= STRAIGHT * float(y.abs().max())
    return slope if straight and abs(slope) > STRAIGHT else None


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values.tolist()[:6])
