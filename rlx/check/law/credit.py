"""Parts of the law of credit: the effect of a token reward, or a greedy reward, on other advantages; what a critic misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import Key, key_of, keys_of, parts_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.stand_in import recording
from rlx.check.subject import Laboratory, Subject, row_shown
from rlx.check.variant import plain_fields
from rlx.loss.advantage.token import TokenAdvantage

LENGTHS = ((6, 4), (5, 2), (3, 6), (6, 5))  # [P, G] lengths of synthetic completions, in tokens
PAID = 3  # index of the rewarded token, with tokens before and after it
PLACES = (1, PAID, 5)  # indices with equal distances
RETURNS_MEND = "returns are summed from the end: rewards.flip(-1).cumsum(-1).flip(-1), discounted_returns(...)"
DISCOUNT_MEND = "a discount is a power of the distance to the reward, gamma ** (s - t), not of the place in the completion"
OTHERS = {  # is a completion greedy? -> what it does, and the mend
    True: (
        "a greedy completion that is rewarded by 1 more lowers",
        "a greedy baseline is of the batch's own prompts, in their order: greedy_rewards(lab, batch.prompts)",
    ),
    False: (
        "completions of one prompt that are all rewarded by 1 more lower",
        "means are of the groups that a batch holds: after batch.take(rows) they are mean[rows], not mean[: len(rows)]",
    ),
}
DISCOUNTS = {"gamma", "discount"}  # names of the discount of rewards
EQUAL = 1e-9
CLOSE = 1e-5  # relative to the largest advantage
MOST_PROMPTS = 4  # prompts whose completions are tried, greedy ones and sampled ones
ENOUGH = 3  # completions that show whether a token is ever learned
MEAN = 0.6  # more than the share of one greedy reward in a mean over two or more prompts


def of_other_prompts(subject: Subject) -> Finding | None:
    """Return a finding if the greedy completion, or the mean reward, of one prompt is the baseline of another prompt's rows."""
    laboratory = subject.stand_in(spread=0.0)
    laboratory.sampler = sampler = recording(laboratory.sampler)
    batch = subject.draw(laboratory)
    asked_for = dict.fromkeys((prompt.tobytes(), draw.greedy) for draw, _ in sampler.calls or () for prompt in draw.prompts)
    usual = getattr(batch, "advantages", None)
    if not isinstance(usual, Tensor) or usual.shape[:1] != (len(batch),):
        return None
    texts = {subject.policy.encode_prompt(each.text, each.tools).tobytes(): each.text for each in subject.small_task.prompts()}
    prompts = [prompt.tobytes() for prompt in batch.sequences.prompts]
    known = [each for each in asked_for if each[0] in texts and {each[0]} != set(prompts)]
    greedily, sampled = ([each for each in known if each[1] == greedy] for greedy in (True, False))
    sampled = [] if Need.VALUES in subject.needs or usual.ndim > 2 else sampled[:: -(-len(sampled) // MOST_PROMPTS) or 1]
    for asked, greedy in (*greedily[:MOST_PROMPTS], *sampled):
        other = subject.draw(subject.stand_in(spread=0.0, rewards={"favoured": texts[asked]}))
        if keys_of(other.sequences) != keys_of(batch.sequences):  # rewards select the groups of a batch
            continue
        by = (other.advantages - usual).flatten(1).amax(dim=1)
        others = [row for row, prompt in enumerate(prompts) if prompt != asked]
        rows = [row for row in others if float(by[row]) < -MEAN]
        if rows and (greedy or any(abs(float(by[row])) < EQUAL for row in others)):  # a baseline of all prompts lowers all rows
            lower, (what, mend) = f"{-float(by[rows[0]]):.2g}", OTHERS[greedy]
            shown = repr(subject.policy.decode(np.frombuffer(asked, dtype=np.int64)))
            return broken(
                f"{what} the advantages of another prompt by {lower}",
                number=f"-{lower}",
                where="draw",
                example=f"completions of {shown}; {row_shown(subject, batch, rows[0])}",
                mend=mend,
            )
    return None


def of_rewards(subject: Subject) -> Finding:
    """Test that a reward changes the advantages of tokens near before it by at least as much as those of tokens far before it."""
    found = [getattr(subject.algorithm, item.name) for item in fields(subject.algorithm)]
    advantage = next((each for each in found if isinstance(each, TokenAdvantage) and not each.requires), None)
    if advantage is None:
        return skipped("there is no critic, and no advantage of tokens")
    effect = _effect(advantage)
    if effect is None or not bool(effect.abs().gt(EQUAL).any()):
        return skipped("advantages are not linear in the rewards of a completion")
    shown = ", ".join(f"{value:.3g}" for value in effect.tolist())
    example = f"a reward of 1 at token {PAID + 1} of {len(effect)} changes their advantages by {shown}"
    steps = effect[1 : PAID + 1] - effect[:PAID]
    if bool((steps < -EQUAL).all()):
        return broken(
            "a reward teaches a token the more the longer before it the token stands",
            where="draw, in its advantage",
            example=example,
            mend=DISCOUNT_MEND,
        )
    places = [_effect(advantage, place) for place in PLACES]
    own = [float(each[place]) for place, each in zip(PLACES, places, strict=True) if each is not None]
    if (
        len(own) == len(PLACES)
        and 0 < own[1] < (1 - CLOSE) * own[0]
        and abs(own[1] ** 2 - own[0] * own[2]) <= CLOSE * own[1] ** 2
    ):
        return broken(
            f"a reward moves the advantage of its own token by {own[0]:.3g} at token {PLACES[0] + 1}, by {own[1]:.3g} at token "
            f"{PLACES[1] + 1} and by {own[2]:.3g} at token {PLACES[2] + 1}: it is discounted by its distance from the beginning",
            number=f"{own[1] / own[0]:.3g}",
            where="draw, in its advantage",
            example=example,
            mend=DISCOUNT_MEND,
        )
    return passed("1 reward")


def credited_late(subject: Subject, zero: Mapping[str, Any]) -> Finding | None:
    """Return a finding if, without a critic, a reward or a KL to the reference moves no advantage before its own token.

    A KL may move that of its own token alone. zero: the settings of `stand_in_task` with which every reward is 0.
    """
    usual = with_tokens(subject.draw(subject.stand_in(spread=0.0, rewards=zero)))
    if usual is None:
        return None
    row = max(range(len(usual)), key=lambda row: len(usual.sequences.completions[row][0]))
    tokens = usual.sequences.completions[row][0]
    text, size = subject.sampler.text(subject.policy, tokens), len(tokens)
    for what, place, rewarded in (
        (f"a reward of 1 moves the advantage of the last of {size} tokens", size - 1, {"rewarded": text}),
        (f"a KL to the reference moves the advantages of later ones of {size} tokens", size // 2, {}),
    ):
        laboratory = subject.stand_in(spread=0.0, rewards={**zero, **rewarded})
        if not rewarded:
            laboratory.reference.raised = {key_of(usual.sequences.prompts[row], tokens): np.eye(1, size, place)[0]}
        paid = with_tokens(subject.draw(laboratory))
        if paid is None or place < 1 or paid.advantages.shape != usual.advantages.shape:
            return None
        moved = (paid.advantages - usual.advantages)[row, 0, :size].abs() > CLOSE
        if bool(moved[min(place + 1, size - 1) :].any()) and not bool(moved[:place].any()):
            return broken(
                f"{what}, and of none that led to it",
                number=f"{int(moved.sum())} of {size} tokens",
                where="draw",
                example=row_shown(subject, usual, row),
                mend=RETURNS_MEND,
            )
    return None


def with_tokens(batch: Any) -> Any:
    """Return the part of a batch that has advantages [P, G, T]; None if there is none."""
    for part in parts_of(batch):
        advantages = getattr(part, "advantages", None)
        if isinstance(advantages, Tensor) and advantages.shape == part.sequences.completion_mask.shape:
            return part
    return None


def never_learned(subject: Subject, laboratory: Laboratory, batch: Any, slope: Tensor) -> Finding | None:
    """Return a finding if wrong values are corrected at all tokens of completions but the first, or but the last.

    Values that are used at a single token, as a baseline of the prompt is, may be learned only there. slope: [all values] the
    gradient at the critic's values.
    """
    places = laboratory.policy.places["values"]
    found = [places[key] for part in parts_of(batch) for key in keys_of(part.sequences) if key in places]
    completions = [slope[place] for place in found if place.stop - place.start > 2 and bool(slope[place].any())]
    for which, name, others in ((0, "first", slice(1, None)), (-1, "last", slice(None, -1))):
        if len(completions) >= ENOUGH and all(not bool(each[which]) and bool(each[others].all()) for each in completions):
            return broken(
                f"a critic that is wrong at every token never learns at the {name} one of a completion, though it does at all "
                "others",
                number=f"0/{len(completions)} completions",
                where="compute_loss",
                example=row_shown(subject, batch, 0),
                mend="weigh the critic's loss by all tokens of batch.loss_mask: no shift, values[t] is said before token t",
            )
    return None


def misplaced(part: Any, row: int, place: int, *, what: str = "", text: str | None = None) -> str | None:
    """Return the fault in advantages that one wrong value, or one reward, at a token has changed; None if there is no fault."""
    what = what or f"an error of the critic at token {place + 1} of a completion"
    inside, advantages = part.sequences.completion_mask.clone(), part.advantages.double()
    others = inside.clone()
    others[row] = False
    for number, texts in enumerate(getattr(part, "texts", ())):
        for column, said in enumerate(texts):
            if text is not None and said == text:
                others[number, column] = False
    unmoved = advantages[others]
    level = float(unmoved.median()) if len(unmoved) else 0.0
    scale = CLOSE * max(1.0, float((advantages[inside] - level).abs().max()))
    moved = (advantages - level).abs() > scale
    if not bool((moved & inside).any()):
        return None if text is None else f"{what} moves no advantage"
    if bool((moved & others).any()):
        return f"{what} moves the advantages of other completions"
    mine = advantages[row, 0][inside[row, 0]]
    of_the_prompt = text is None and not place and float((mine - mine[0]).abs().max()) <= scale  # a baseline of all tokens
    if not of_the_prompt and bool(moved[row, 0, place + 1 :][inside[row, 0, place + 1 :]].any()):
        return f"{what} moves the advantages of later tokens"
    if not bool(moved[row, 0, place]):
        return f"{what} does not move the advantage of that token, but those of others"
    by = advantages[row, 0] - level
    if text is None and float(by[place]) > 0:
        return f"{what}, which expects 1 too much there, raises the advantage of that token by {float(by[place]):.2g}"
    if text is None and place and float(by[place - 1]) < -scale:
        return (
            f"{what}, which expects 1 too much there, lowers the advantage of the token before by {-float(by[place - 1]):.2g}: "
            "what the critic expects after a token is taken from another place"
        )
    return None


def subtracted_twice(paid: Any, spiked: Any, row: int, last: int) -> str | None:
    """Return what is wrong if a critic's error at a completion's last token weighs more there than a reward.

    paid, spiked: the parts of two draws, with a reward of 1 there, and with a value that is 1 too high; all else is 0.
    """
    raised, lowered = (float(part.advantages[row, 0, last]) for part in (paid, spiked))
    whitened = any(bool(part.advantages[part.sequences.completion_mask].median() != 0) for part in (paid, spiked))
    if whitened or abs(raised - 1) > CLOSE or lowered >= -1 - CLOSE:
        return None
    return (
        f"a reward of 1 raises the advantage of the last token by 1, and a critic that expects 1 too much there lowers it by "
        f"{-lowered:.3g}: its value is subtracted more than once"
    )


def paid_and_expected(subject: Subject, part: Any, reward: float) -> str | None:
    """Return what is wrong if a critic that says the reward of all completions leaves advantages, but none at last tokens.

    Advantages may be below 0, unless the algorithm has a discount that is 1.
    """
    if part is None or not reward or not bool((mask := part.sequences.completion_mask).any()):
        return None
    ahead = torch.cat([mask[..., 1:], torch.zeros_like(mask[..., :1])], dim=-1)
    earlier, last = part.advantages[mask & ahead].double(), part.advantages[mask & ~ahead].double()
    if bool((last.abs() > CLOSE).any()) or not bool((earlier.abs() > CLOSE).any()):
        return None
    undiscounted = {value for name, value in plain_fields(subject.algorithm) if name.rpartition(".")[2] in DISCOUNTS} == {1.0}
    if undiscounted and -reward + CLOSE < float(earlier.min()) <= float(earlier.max()) < -CLOSE:
        return (
            f"every reward is {reward:g}, the critic says so and the discount is 1, but tokens before the last get advantages of "
            f"down to {float(earlier.min()):.2g}: what the critic expects after a token is multiplied by something else"
        )
    if bool((earlier < -CLOSE).any()):
        return None
    return (
        f"every reward is {reward:g} and the critic says so, but tokens before the last get advantages of up to "
        f"{float(earlier.max()):.2g}: a reward and the value that expects it are added"
    )


def last_places(places: Mapping[Key, slice], batch: Any, size: int) -> Tensor:
    """Return [N] the indices, in the critic's leaf, of the last tokens of completions that ended by themselves."""
    found = []
    for part in parts_of(batch):
        finished = getattr(part, "finished", None)
        for row, (prompt, group) in enumerate(zip(part.sequences.prompts, part.sequences.completions, strict=True)):
            for column, tokens in enumerate(group):
                place = places.get(key_of(prompt, tokens))
                ended = finished is None or bool(finished[row, column])
                if place is not None and len(tokens) and ended and place.stop <= size:
                    found.append(place.stop - 1)
    return torch.tensor(found, dtype=torch.long)


def moves_earlier(part: Any, row: int, last: int) -> bool:
    """Whether the advantages before a completion's last token differ from the median of the other rows.

    part: of a draw whose rewards and values are 0, except for the value at that last token or the completion's reward.
    """
    inside, advantages = part.sequences.completion_mask.clone(), part.advantages.double()
    mine = advantages[row, 0, :last].clone()
    inside[row] = False
    level = advantages[inside].median() if bool(inside.any()) else torch.zeros(())
    return bool(((mine - level).abs() > CLOSE * max(1.0, float(advantages.abs().max()))).any())


def _effect(advantage: TokenAdvantage, place: int = PAID) -> Tensor | None:
    """Return [T] the change of a completion's advantages by a reward at one token, without the change of all (whitening).

    Return None if advantages of other prompts change by more than a common offset and scale.
    """
    lengths = torch.tensor(LENGTHS)
    mask = torch.arange(int(lengths.max())) < lengths[..., None]
    rewards = torch.where(mask, torch.randn(mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.0)
    more = rewards.clone()
    more[0, 0, place] += 1
    usual, moved = (advantage(each, mask).double() for each in (rewards, more))
    x, y = usual[1:][mask[1:]], moved[1:][mask[1:]]
    spread = x - x.mean()
    scale = float((spread * (y - y.mean())).sum() / (spread * spread).sum().clamp(min=1e-300))
    level = float(y.mean()) - scale * float(x.mean())
    if float((y - scale * x - level).abs().max()) > 1e-6 * max(1.0, float(y.abs().max())):
        return None
    return (moved[0, 0] - scale * usual[0, 0] - level)[mask[0, 0]] / max(scale, 1e-12)
