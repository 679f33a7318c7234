"""Laws of sampled completions: rewards are their own, excluded ones count in no mean, and not only truncated ones are learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.algorithm.base import LossOutput, Need
from rlx.check.batch import Key, group_keys, parts_of
from rlx.check.finding import Finding, broken
from rlx.check.place import throws_dice
from rlx.check.stand_in_task import reward_of
from rlx.check.subject import Laboratory, Subject, row_shown
from rlx.task.base import Prompt

EQUAL = 1e-5  # in units of the reward
MOST_PROMPTS = 3  # prompts whose rewards change


def rewards_of_others(subject: Subject) -> Finding | None:
    """Return a finding if a batch has rewards that the task gave to other completions, and advantages that follow them.

    An algorithm may change rewards; they are then not numbers that the task gave.
    """
    if Need.REWARDS not in subject.needs or subject.task.interaction is not None or subject.goes_past:
        return None
    laboratory = subject.stand_in(spread=0.0)
    given = _noted(laboratory)
    for part in parts_of(subject.draw(laboratory)):
        rewards, advantages = getattr(part, "rewards", None), getattr(part, "advantages", None)
        shape = part.sequences.completion_mask.shape[:2]
        if (
            not isinstance(rewards, Tensor)
            or not isinstance(advantages, Tensor)
            or {rewards.shape, advantages.shape[:2]} != {shape}
        ):
            continue
        said = rewards.double()
        texts = [[subject.sampler.text(subject.policy, tokens) for tokens in group] for group in part.sequences.completions]
        own = torch.tensor([[reward_of(text) for text in group] for group in texts], dtype=torch.float64)
        astray = torch.nonzero((said != own).any(dim=1)).flatten().tolist()
        if not astray or not Counter(said.flatten().tolist()) <= given or _along(said, advantages) <= _along(own, advantages):
            continue
        row = astray[0]
        return broken(
            f"the rewards of {len(astray)} of {len(said)} groups are not those of the completions that stand beside them, but "
            f"such as the task gave for others: {_listed(said[row])} for what it rewards with {_listed(own[row])}",
            number=f"{len(astray)} of {len(said)} groups",
            where="draw",
            example=row_shown(subject, part, row),
            mend="what reorders or repeats the completions of a batch does the same with rewards and sampling_logprobs: "
            "batch.take(rows) takes everything along, rewards.gather(1, places) follows sequences.pick(places)",
        )
    return None


def pairs_of_other_rewards(subject: Subject) -> Finding | None:
    """Return a finding if pairs change where only the rewards of another prompt do, all of them alike."""
    usual = _pairs_by_prompt(subject.draw(subject.stand_in(spread=0.0)))
    texts = {subject.policy.encode_prompt(each.text, each.tools).tobytes(): each.text for each in subject.small_task.prompts()}
    for prompt in [prompt for prompt in usual if prompt in texts][:MOST_PROMPTS]:
        moved = _pairs_by_prompt(subject.draw(subject.stand_in(spread=0.0, rewards={"favoured": texts[prompt]})))
        others = [each for each in usual if each != prompt and each in moved and moved[each] != usual[each]]
        if others and not throws_dice(lambda: subject.draw(subject.stand_in(spread=0.0))):
            return broken(
                f"where completions of one prompt are all rewarded by 1 more, pairs of {len(others)} of {len(usual) - 1} other "
                "prompts are made of other completions",
                number=f"{len(others)} of {len(usual) - 1} prompts",
                where="draw",
                example=repr(subject.policy.decode(np.frombuffer(others[0], dtype=np.int64))),
                mend="the best and the worst of a group are over its completions: rewards.argmax(dim=1) of rewards [P, G]",
            )
    return None


def _pairs_by_prompt(batch: Any) -> dict[bytes, set[tuple[Key, ...]]]:
    """Return prompt -> its pairs, as keys of the completions, without those of twice the same completion."""
    found: dict[bytes, set[tuple[Key, ...]]] = {}
    for group in (group for part in parts_of(batch) for group in group_keys(part.sequences)):
        found.setdefault(group[0][0], set()).update([group] if len(set(group)) > 1 else [])
    return found


def left_out_counts(subject: Subject) -> Finding | None:
    """Return a finding if, at equal rewards, only groups with excluded completions have non-zero advantages."""
    if Need.VALUES in subject.needs:
        return None
    for part in parts_of(subject.draw(subject.stand_in(spread=0.0, rewards={"equal_rewards": True}))):
        advantages, kept = getattr(part, "advantages", None), getattr(part, "kept", None)
        if not isinstance(advantages, Tensor) or kept is None or not bool(kept.any()) or advantages.shape[:2] != kept.shape:
            continue
        each = advantages.reshape(*kept.shape, -1).abs().amax(dim=-1).masked_fill(~kept, 0.0)
        whole, partly = kept.all(dim=1), kept.any(dim=1) & ~kept.all(dim=1)
        astray = torch.nonzero(partly & (each.amax(dim=1) > EQUAL)).flatten().tolist()
        if not bool(whole.any()) or bool((each[whole] > EQUAL).any()) or 2 * len(astray) <= int(partly.sum()):
            continue
        row = astray[0]
        return broken(
            f"all rewards are equal, and the completions of a whole group have advantages of 0; of a group of which "
            f"{int((~kept[row]).sum())} of {len(kept[row])} are left out, those that are learned have "
            f"{float(advantages[row][kept[row]].flatten()[0]):.3g}: the baseline counts what is left out",
            number=f"{len(astray)} of {int(partly.sum())} groups",
            where="draw",
            example=row_shown(subject, part, row),
            mend="a mean of what is kept divides by its number: (rewards * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)",
        )
    return None


def cut_off_alone(subject: Subject, output: LossOutput, batch: Any) -> Finding | None:
    """Return a finding if truncated completions have weights and none that ended by themselves has."""
    for part in parts_of(batch):
        finished, weights = getattr(part, "finished", None), [term.weights.detach().cpu() for term in output.terms.values()]
        if not isinstance(finished, Tensor) or any(each.shape[:2] != finished.shape for each in weights):
            continue
        weighs = torch.stack([each.reshape(*finished.shape, -1).ne(0).any(dim=-1) for each in weights]).any(dim=0)
        if int(finished.sum()) < 2 or not bool((weighs & ~finished).any()) or bool((weighs & finished).any()):
            continue
        return broken(
            f"{int((weighs & ~finished).sum())} completions that were cut off at max_new_tokens are learned, and none of "
            f"{int(finished.sum())} that ended by themselves",
            number=f"0 of {int(finished.sum())}",
            where="the weights that draw makes",
            example=row_shown(subject, part, 0),
            mend="batch.finished is true of what ended by itself: batch.loss_mask & batch.finished[..., None]",
        )
    return None


def _noted(laboratory: Laboratory) -> Counter[float]:
    """Return a counter of the rewards that the laboratory's task gives from now on."""
    given: Counter[float] = Counter()
    usual = laboratory.task.reward_all

    def reward_all(prompts: Sequence[Prompt], completions: Sequence[str]) -> Any:
        found = usual(prompts, completions)
        given.update(each["reward"] for each in found)
        return found

    object.__setattr__(laboratory.task, "reward_all", reward_all)
    return given


def _along(rewards: Tensor, advantages: Tensor) -> float:
    """Return the covariance of advantages with rewards within groups, times the number of completions."""
    each = advantages.double().reshape(*rewards.shape, -1).sum(dim=-1)
    return float(((rewards - rewards.mean(dim=1, keepdim=True)) * each).sum())


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:g}" for value in values.tolist()[:6])
