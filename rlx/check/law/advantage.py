"""Laws of advantages: groups with equal rewards get equal ones, and a critic's error shows only at its token and before it."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import Key, key_of, parts_of
from rlx.check.finding import FAILED, Finding, broken, passed, skipped
from rlx.check.law.credit import (
    credited_late,
    last_places,
    misplaced,
    moves_earlier,
    never_learned,
    of_other_prompts,
    of_rewards,
    paid_and_expected,
    subtracted_twice,
    with_tokens,
)
from rlx.check.law.rounding import blown_up, divided_by_a_square, listed, rounded_down
from rlx.check.law.sampled import left_out_counts
from rlx.check.subject import Laboratory, Subject, row_shown

EVERY_REWARD = 0.5  # the reward of each completion when all are equal
NEAR = 0.05  # error of a critic, in units of the reward, within usual clip ranges of values
ASTRAY = 1.5  # error of a critic, in units of the reward, beyond usual clip ranges of values
EQUAL = 1e-5  # relative to the largest advantage
BONUS = 0.25  # added to every reward
LEFT = 0.02  # tolerance of the share of a shift of all rewards that remains in the advantages
MOST_DRAWS = 64  # draws with the same rewards, in which a running baseline may reach their mean
DRAWS = 4  # draws in which one completion is sampled repeatedly for some prompts
STRAIGHT = 1e-4  # largest distance of advantages from a line over the rewards, relative to the largest advantage
ZERO = {"equal_rewards": True, "bonus": -0.5}  # every reward is 0, so that values of 0 are exact


def alike(subject: Subject) -> Finding:
    """Groups with the same rewards get the same advantages, whatever the rewards of other prompts are."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return skipped("nothing is rewarded, or the loss reads the model itself")
    if Need.VALUES in subject.needs:
        return skipped("advantages depend on a critic; see credit")
    if (found := _same_completions(subject) or rounded_down(subject) or blown_up(subject)) is not None:
        return found
    batch = _rewarded_unlike(subject)
    compared, worst = 0, 0.0
    for part in parts_of(batch):
        advantages = getattr(part, "advantages", None)
        if not isinstance(advantages, Tensor) or advantages.shape[:1] != (len(part),) or not advantages.numel():
            continue
        first: dict[tuple[Any, ...], int] = {}
        times: Counter[Any] = Counter()  # a batch may hold a group twice, sampled now and replayed, for different uses
        for row, (prompt, group) in enumerate(zip(part.sequences.prompts, part.sequences.completions, strict=True)):
            said = tuple(tokens.tobytes() for tokens in group)
            known = first.setdefault((times[prompt.tobytes(), said], *said), row)
            times[prompt.tobytes(), said] += 1
            compared += known != row
            off = float((advantages[row] - advantages[known]).abs().max())
            worst = max(worst, off)
            if off > EQUAL * max(1.0, float(advantages.abs().max())):
                return broken(
                    f"two groups with the same completions and rewards get advantages that differ by {off:.2g}: those of one "
                    "depend on its place in the batch, or on the rewards of some other prompt",
                    number=f"{off:.1g}",
                    where="draw",
                    example=f"rows {known} and {row}: {listed(advantages[known])} and {listed(advantages[row])}",
                    mend="take a group's mean and deviation over its own completions, dim=1 of rewards [P, G]; no roll, no view "
                    "as [G, P]",
                )
    return passed(f"{worst:.0e}") if compared else skipped("the batch holds no advantages of groups")


def _same_completions(subject: Subject) -> Finding | None:
    """Return a finding if a completion that was sampled repeatedly for a prompt gets both positive and negative advantages."""
    laboratory = subject.stand_in(spread=0.0)
    for step in range(DRAWS):  # a replay buffer holds rows from the second draw on
        for part in parts_of(subject.draw(laboratory, step=step)):
            advantages = getattr(part, "advantages", None)
            if not isinstance(advantages, Tensor) or advantages.shape[:2] != part.sequences.completion_mask.shape[:2]:
                continue
            for row, group in enumerate(part.sequences.completions):
                if len(group) < 2 or len({tokens.tobytes() for tokens in group}) > 1:
                    continue
                least, most = advantages[row].reshape(len(group), -1).aminmax(dim=0)  # at each token, if it has its own
                token = int(torch.minimum(most, -least).argmax())
                praise, blame = float(most[token]), float(least[token])
                if min(praise, -blame) > EQUAL * max(1.0, float(advantages.abs().max())):
                    return broken(
                        f"a completion that was sampled {len(group)} times for one prompt, and rewarded the same each time, gets "
                        f"advantages from {blame:.3g} to {praise:.3g}: its place decides, or the rewards of other prompts",
                        number=f"{praise - blame:.2g}",
                        where="draw",
                        example=f"{row_shown(subject, part, row)}: {listed(advantages[row])}",
                        mend="equal rewards are a tie: ranks share theirs, no pair is made of them; and advantages are computed "
                        "of the rewards of all the rows that a batch holds",
                    )
    return None


def _rewarded_unlike(subject: Subject) -> Any:
    """Return a draw whose groups are equal, except that the rewards of the first one differ from those of the others.

    If all rewards of a batch were equal, an advantage divided by their deviation would be a quotient of rounding errors.
    """
    batch = subject.draw(subject.stand_in(spread=0.0, shape="alike"))
    rewarded = [part for part in parts_of(batch) if isinstance(getattr(part, "rewards", None), Tensor) and len(part)]
    if not rewarded or any(bool((part.rewards != rewarded[0].rewards.flatten()[0]).any()) for part in rewarded):
        return batch
    text = subject.sampler.text(subject.policy, rewarded[0].sequences.completions[0][0])
    return subject.draw(subject.stand_in(spread=0.0, shape="alike", rewards={"rewarded": text}))


def credit(subject: Subject) -> Finding:
    """A perfect critic leaves no advantage; an error at a token shows there and before, a reward at its completion's end."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return skipped("there is no critic")
    of_tokens = of_other_prompts(subject) or of_rewards(subject)
    if of_tokens.status == FAILED:
        return of_tokens
    if Need.VALUES not in subject.needs:
        return credited_late(subject, ZERO) or of_tokens
    laboratory = subject.stand_in(spread=0.0, rewards=ZERO)
    part = _drawn(subject, laboratory, {})
    if part is None:
        return skipped("the batch holds no advantages of tokens")
    inside = part.sequences.completion_mask
    rest = float(part.advantages[inside].abs().max()) if bool(inside.any()) else 0.0
    if rest > EQUAL:
        return _credit_broken(subject, part, 0, f"a critic that says the rewards exactly leaves advantages of up to {rest:.2g}")
    if (wrong := _critic_is_wrong(subject)) is not None:
        return wrong
    sizes = [len(group[0]) for group in part.sequences.completions]
    row = max(range(len(part)), key=sizes.__getitem__)
    if sizes[row] < 4:
        return skipped("no completion is long enough")
    prompt, tokens = part.sequences.prompts[row], part.sequences.completions[row][0]
    key, last = key_of(prompt, tokens), len(tokens) - 1
    earlier = []
    for place in (0, 1, last):
        spiked = _drawn(subject, laboratory, {key: place})
        if place == last:
            earlier.append(moves_earlier(spiked, row, place))
        if (said := misplaced(spiked, row, place)) is not None:
            return _credit_broken(subject, part, row, said)
    for paid_row in (row, min(range(len(part)), key=lambda row: (sizes[row] == 0, sizes[row]))):
        text = subject.sampler.text(subject.policy, part.sequences.completions[paid_row][0])
        paid = _drawn(subject, subject.stand_in(spread=0.0, rewards={**ZERO, "rewarded": text}), {})
        what = f"a reward of 1 for {text!r}, {sizes[paid_row]} of {part.sequences.width} tokens,"
        if (said := misplaced(paid, paid_row, sizes[paid_row] - 1, what=what, text=text)) is not None:
            return _credit_broken(subject, part, paid_row, said)
        if paid_row == row and (said := subtracted_twice(paid, spiked, row, last)) is not None:
            return _credit_broken(subject, part, row, said)
        if paid_row == row:
            earlier.append(moves_earlier(paid, row, last))
    if not any(earlier):
        what = "neither its reward nor what the critic expects at its last token moves the advantage of any token before that"
        return _credit_broken(
            subject, part, row, f"of a completion of {sizes[row]} tokens, {what}: they are credited with nothing"
        )
    return _misses_the_reward(subject) or passed("5 places")


def _critic_is_wrong(subject: Subject) -> Finding | None:
    """Return a finding if exact values are changed, or if values that became wrong after the draw are not corrected."""
    for reward in (EVERY_REWARD, 0.0):
        laboratory = subject.stand_in(spread=0.0, rewards={**ZERO, "bonus": reward - EVERY_REWARD})
        if _drawn(subject, laboratory, {}) is None:
            return None
        batch = _said(subject, laboratory, reward)
        if (said := paid_and_expected(subject, with_tokens(batch), reward)) is not None:
            return _credit_broken(subject, batch, 0, said)
        worst = max((float(part.advantages.abs().max()) for part in parts_of(batch) if len(part)), default=1.0)
        if worst <= EQUAL:
            break
    else:  # no constant value is exact
        return None
    slopes = []
    for value in (reward, reward - ASTRAY, reward + ASTRAY, reward + NEAR):
        slopes.append(_critic_slope(subject, laboratory, batch, value))
    scale = max((float(slope.abs().max()) for slope in slopes if len(slope)), default=0.0)
    if not scale:
        return None

    def wrong(said: str, number: float, mend: str, where: str = "draw or compute_loss") -> Finding:
        return broken(said, number=f"{number:.0e}", where=where, example=row_shown(subject, batch, 0), mend=mend)

    mend = "values are regressed to returns, returns = advantages + values when the batch was drawn"
    if (off := float(slopes[0].abs().max())) > EQUAL * scale:
        return wrong(
            f"every reward is {reward:g} and the critic says so, but its loss moves it away (slope {off:.1e})", off, mend
        )
    for slope, side, sign in ((slopes[1], "below", -1), (slopes[2], "above", 1)):
        if not bool(slope.any()):
            return wrong(
                f"a critic that went {ASTRAY:g} {side} the returns after the draw is not drawn back: its loss has no slope there",
                0.0,
                "a clipped loss of values is the larger of the two errors: torch.maximum(error, error of the held value)",
                "compute_loss",
            )
        if float((sign * slope).max()) <= 0:
            return wrong(
                f"a critic that is {ASTRAY:g} {side} the returns is driven further away: its loss falls there with the error",
                float(slope.sum()),
                "the squared error of values enters the loss with a plus",
                "compute_loss",
            )
    return never_learned(subject, laboratory, batch, slopes[1])


def _misses_the_reward(subject: Subject) -> Finding | None:
    """Return a finding if the target of values at a completion's last token is not its reward, whatever they were at the draw."""
    laboratory = subject.stand_in(spread=0.0, rewards=ZERO)
    if _drawn(subject, laboratory, {}) is None:
        return None
    slopes = []
    for said in (0.0, NEAR):
        batch = _said(subject, laboratory, said)
        if len(batch) == 0:
            return None
        last = last_places(laboratory.policy.places["values"], batch, len(laboratory.policy.leaves["values"]))
        found = [_critic_slope(subject, laboratory, batch, value) for value in (0.0, NEAR)]
        if not len(last) or not all(len(each) for each in found):
            return None
        slopes.append([float(each[last].abs().max()) for each in found])
    (perfect, scale), (off, _) = slopes
    if not scale or perfect > EQUAL * scale or off <= EQUAL * scale:
        return None
    return broken(
        f"every reward is 0; a critic that said {NEAR:g} at the draw and now says 0 at the last token of a completion is moved "
        f"away from it (slope {off:.1e}): its target there is not the reward",
        number=f"{off:.0e}",
        where="draw or compute_loss",
        example=row_shown(subject, batch, 0),
        mend="values are regressed to returns, returns = advantages + values when the batch was drawn",
    )


def _said(subject: Subject, laboratory: Laboratory, value: float) -> Any:
    """Return the batch of a draw in which every value of the critic is this number."""
    with torch.no_grad():
        laboratory.policy.leaves["values"].fill_(value)
    laboratory.state.clear()
    return subject.first_update(laboratory)


def _critic_slope(subject: Subject, laboratory: Laboratory, batch: Any, value: float) -> Tensor:
    """Return [all values] the gradient at the critic's values, when each is this number; empty if there is none."""
    leaf = laboratory.policy.leaves["values"]
    with torch.no_grad():
        leaf.fill_(value)
    gradient, _ = subject.gradient(laboratory, batch)
    return gradient[-len(leaf) :] if laboratory.policy.leaf_names[-1] == "values" else gradient[:0]


def _credit_broken(subject: Subject, part: Any, row: int, wrong: str) -> Finding:
    return broken(
        wrong,
        where="draw",
        example=row_shown(subject, part, row),
        mend="per completion, from its last token backwards: delta[t] = reward[t] + gamma * value[t + 1] - value[t], the value "
        "after the last token is 0, advantage[t] = delta[t] + gamma * lambda * advantage[t + 1]",
    )


def _drawn(subject: Subject, laboratory: Laboratory, errors: dict[Key, int]) -> Any:
    """Return the part of a draw with advantages [P, G, T]; values are 0, or 1 at the tokens in `errors` (key -> token)."""
    laboratory.state.clear()
    if "values" not in laboratory.policy.leaves:
        subject.draw(laboratory)  # creates the values of every completion
        laboratory.state.clear()
    values, places = laboratory.policy.leaves.get("values"), laboratory.policy.places.get("values", {})
    if values is None:
        return None
    with torch.no_grad():
        values.zero_()
        for key, place in errors.items():
            values[places[key].start + place] = 1.0
    return with_tokens(subject.draw(laboratory))


def baseline(subject: Subject) -> Finding:
    """An advantage that is linear in a group's rewards subtracts a baseline between 0 and their mean, and nothing else."""
    if Need.REWARDS not in subject.needs:
        return skipped("nothing is rewarded")
    if (found := _grows(subject) or left_out_counts(subject) or divided_by_a_square(subject)) is not None:
        return found
    draws = [_advantages(subject, bonus) for bonus in (0.0, BONUS)]
    if any(found is None for found in draws):
        return skipped("the batch holds no advantages of completions")
    (rewards, before), (others, after) = draws  # type: ignore[misc]
    if rewards.shape != others.shape or not torch.allclose(others, rewards + BONUS):
        return skipped("with other rewards another batch is drawn")
    shares = []
    for row in range(len(rewards)):
        slope = _slope(rewards[row], before[row])
        if slope is None or _slope(others[row], after[row]) is None:
            continue
        share = float((after[row] - before[row]).mean()) / (BONUS * slope)
        shares.append(share)
        if not -LEFT <= share <= 1 + LEFT:
            return broken(
                f"rewards that are all higher by {BONUS:g} change the advantages of a group by {share:+.2g} times that much: "
                "a baseline is taken away, so it is between 0 (a mean of the group) and 1 (none)",
                number=f"{share:.2g}",
                where="draw",
                example=f"rewards {listed(rewards[row])} -> advantages {listed(before[row])}",
                mend="an advantage is reward minus baseline: rewards - rewards.mean(dim=1, keepdim=True)",
            )
    size = rewards.shape[1]
    others = f"of a completion is the sum of the {size - 1} other rewards divided by {size}"
    for left, part, what in (  # of a slope of 1 + 1 / size, 1 / size remains
        (1 / (size + 1), 1, others),
        (1 - 1 / size, size - 1, f"is a mean that is divided by {size} once more"),
    ):
        if size > 1 and shares and all(abs(share - left) < STRAIGHT for share in shares):
            return broken(
                f"rewards that are all higher by {BONUS:g} raise the advantages of every group of {size} by {part}/{size} of "
                f"that: the baseline {what}",
                number=f"{part}/{size}",
                where="draw",
                example=f"rewards {listed(rewards[0])} -> advantages {listed(before[0])}",
                mend=f"the mean of the others divides their sum by {size - 1}, a weighted mean by the sum of its weights",
            )
    return (
        passed(f"{sum(shares) / len(shares):.2g} of a shift is left")
        if shares
        else skipped("advantages are not linear in rewards")
    )


def _grows(subject: Subject) -> Finding | None:
    """Return a finding if advantages grow without end at equal rewards, or a running baseline stops before the mean reward."""
    for rewards, scaled in (({"equal_rewards": True}, False), ({}, True)):
        laboratory = subject.stand_in(spread=0.0, rewards=rewards)
        levels: list[float] = []
        factor: float | None = None
        while len(levels) < 2 * DRAWS or (not scaled and factor == 1 and abs(levels[-1]) < abs(levels[0])):
            advantages = getattr(subject.draw(laboratory, step=0 if scaled else len(levels)), "advantages", None)
            if not isinstance(advantages, Tensor) or not advantages.numel() or not laboratory.state or len(levels) > MOST_DRAWS:
                return None
            found = advantages.double()
            levels.append(float(found.abs().max().clamp(min=EQUAL).log() if scaled else found.mean()))
            factor = _common_factor([after - before for before, after in pairwise(levels)])
        first = levels[1] - levels[0]
        end = levels[0] + first / (1 - factor) if factor and factor < 1 else 0.0
        if not scaled and LEFT < end / (levels[0] or 1.0) < 1:
            said = (
                f"go from {levels[0]:.3g} to {end:.3g} and no further: the running baseline ends short of the mean of the rewards"
            )
            number = f"{end:.3g}"
        elif factor == 1 and abs(first) > EQUAL and not (scaled and first < 0):
            number = f"{math.exp(first):.3g} times as large" if scaled else f"{first:+.3g}"
            said = f"change with every step ({number}): a baseline grows, or a scale shrinks, without an end"
        else:
            continue
        return broken(
            f"where rewards are the same at every step, advantages {said}",
            number=number.partition(" ")[0],
            where="draw",
            example=f"steps 0 to {len(levels) - 1}: {listed(torch.tensor(levels).exp() if scaled else torch.tensor(levels))}",
            mend="a running mean is decay * before + (1 - decay) * rewards.mean(), of rewards and not of advantages; a running "
            "variance is one of squares, not the square of a mean",
        )
    return None


def _common_factor(steps: list[float]) -> float | None:
    """Return the factor between consecutive steps: exactly 1 if all are equal; None if it differs, or is not between 0 and 1."""
    if all(abs(step - steps[0]) <= EQUAL for step in steps):
        return 1.0
    factor = steps[1] / steps[0] if steps[0] else 0.0
    same = all(abs(after - factor * before) <= EQUAL * abs(steps[0]) for before, after in pairwise(steps))
    return factor if same and 0 < factor < 1 - EQUAL else None


def _advantages(subject: Subject, bonus: float) -> tuple[Tensor, Tensor] | None:
    """Return (rewards [P, G], advantages [P, G]) of a draw with rewards higher by `bonus`; None if it has no such tensors."""
    laboratory: Laboratory = subject.stand_in(spread=0.0, rewards={"bonus": bonus})
    batch: Any = subject.first_update(laboratory)
    found = getattr(batch, "advantages", None)
    if found is None or found.ndim != 2 or found.shape != batch.rewards.shape:
        return None
    return batch.rewards.double(), found.double()


def _slope(rewards: Tensor, advantages: Tensor) -> float | None:
    """Return the slope of the line through all (reward, advantage); None if they are not on a line, or the slope is 0."""
    x, y = rewards - rewards.mean(), advantages - advantages.mean()
    if float(x.abs().max()) < STRAIGHT:
        return None
    slope = float((x * y).sum() / (x * x).sum())
    straight = float((y - slope * x).abs().max()) <= STRAIGHT * float(y.abs().max())
    return slope if straight and abs(slope) > STRAIGHT else None
