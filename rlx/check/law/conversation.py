"""Laws of conversations with an environment: its messages are context, and later turns get no credit for a turn's reward."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.check.batch import parts_of, with_more_said
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.stand_in import recording
from rlx.check.subject import Laboratory, Subject, completion_gradients, reads_logprobs, row_shown
from rlx.data.sequences import Tokens
from rlx.task.base import Earned, Graded, Prompt, Task

_CLOSE = 1e-5  # relative to the largest advantage
LOGPROB = -0.7  # of every token under policy, reference and sampler
MORE = 5  # tokens added to each message of the environment
LESS = 1e-3  # relative decrease of a gradient, more than rounding


def _own(sampled: Mapping[bytes, list[Tokens]], prompt: Tokens, completion: Tokens) -> np.ndarray:
    """Return bool [T] which tokens were sampled; the others are the environment's. sampled: tokens so far -> completions."""
    found, place = np.zeros(len(completion), dtype=bool), 0
    while place < len(completion):
        history = np.concatenate([prompt, completion[:place]]).astype(np.int64).tobytes()
        turns = [turn for turn in sampled.get(history, ()) if np.array_equal(turn, completion[place : place + len(turn)])]
        length = max(map(len, turns), default=0)
        found[place : place + length] = True
        place += max(1, length)
    return found


def context(subject: Subject) -> Finding:
    """The environment's turns in a conversation are context: no gradient reaches them, and no length counts them."""
    if subject.task.interaction is None:
        return skipped("a completion of the task is one turn")
    laboratory = subject.stand_in()
    laboratory.sampler = sampler = recording(laboratory.sampler)
    batch = subject.first_update(laboratory)
    sampled: dict[bytes, list[Tokens]] = {}
    for history, turn in sampler.sampled():
        sampled.setdefault(history.astype(np.int64).tobytes(), []).append(turn)
    gradient, _ = subject.gradient(laboratory, batch)
    if not reads_logprobs(laboratory):
        return skipped("the loss does not read token log-probabilities through the policy")
    said = 0
    for part in parts_of(batch):
        for row, group in enumerate(completion_gradients(laboratory, part, gradient)):
            for column, values in enumerate(group):
                own = _own(sampled, part.sequences.prompts[row], part.sequences.completions[row][column])
                others = values[torch.from_numpy(~own)] if len(values) == len(own) else values[:0]
                said += len(others)
                if bool((others != 0).any()):
                    return broken(
                        f"{int((others != 0).sum())} of {len(others)} tokens that the environment said in a conversation are "
                        "learned as if the policy had written them",
                        number=f"{float(others.abs().max()):.0e}",
                        where="draw, or compute_loss",
                        example=row_shown(subject, part, row),
                        mend="keep the `learned` masks of batch.sequences (take, pick and join do), and weigh tokens by "
                        "completion_mask, not by the lengths of completions",
                    )
    if not said:
        return skipped("no conversation of the draw has a second turn")
    return _counts_in_lengths(subject, laboratory, batch) or _counts_in_the_loss(subject) or passed(f"{said} tokens")


def _counts_in_lengths(subject: Subject, laboratory: Laboratory, batch: Any) -> Finding | None:
    """Return a finding if tokens are weighted by 1 / the length of a conversation that includes the environment's tokens."""
    for part in parts_of(batch):
        mask = part.sequences.completion_mask.flatten(0, 1)
        own = mask.sum(dim=-1)
        spans = ((mask * torch.arange(1, mask.shape[-1] + 1)).amax(dim=-1), part.sequences.completion_lengths.flatten())
        for term in subject.loss(laboratory, batch).terms.values():
            if term.weights.shape != part.sequences.completion_mask.shape:
                continue
            weights = term.weights.detach().cpu().double().flatten(0, 1)
            least, most = weights.masked_fill(~mask, torch.inf).amin(dim=-1), weights.masked_fill(~mask, 0.0).amax(dim=-1)
            rows = (own > 0) & (most > 0)
            if not bool((least == most)[rows].all()) or not _differ(most[rows]) or not _differ((most * own)[rows]):
                continue
            if all(_differ((most * span)[rows]) for span in spans):
                continue
            row = int(((spans[0] - own) * rows).argmax())
            return broken(
                f"a token weighs 1 / the length of its conversation, in which what the environment said counts: here "
                f"{int(spans[0][row])} tokens, of which the policy wrote {int(own[row])}",
                number=f"{int(spans[0][row] - own[row])} tokens",
                where="the weights that draw makes",
                example=row_shown(subject, part, row // part.sequences.group_size),
                mend="count the tokens of batch.loss_mask, loss_mask.sum(dim=-1): completion_lengths and places in the "
                "completion count those of others too",
            )
    return None


def _counts_in_the_loss(subject: Subject) -> Finding | None:
    """Return a finding if longer messages of the environment reduce the gradient at the policy's own tokens."""
    laboratory, batch = subject.stand_in_batch(constant=LOGPROB, constant_of="everybody")
    parts = parts_of(batch)
    longer = with_more_said(parts[0], MORE) if len(parts) == 1 and parts[0] is batch else None
    if longer is None:
        return None
    found = []
    for each in (batch, longer):
        gradient, _ = subject.gradient(laboratory, each)
        masks = each.sequences.completion_mask
        rows = completion_gradients(laboratory, each, gradient)
        found.append(
            [
                [slopes[mask[: len(slopes)]] for slopes, mask in zip(group, marks, strict=True)]
                for group, marks in zip(rows, masks, strict=True)
            ]
        )
    shares: dict[tuple[int, int], float] = {}
    for row, groups in enumerate(zip(*found, strict=True)):
        for column, (before, after) in enumerate(zip(*groups, strict=True)):
            if before.shape != after.shape or not bool(before.any()):
                continue
            share = float((before * after).sum() / before.square().sum())
            if float((after - share * before).abs().max()) > _CLOSE * float(before.abs().max()):
                return None  # it depends on more than a length: on places, say
            shares[row, column] = share
    (row, column), least = min(shares.items(), key=lambda item: item[1], default=((0, 0), 1.0))
    if not 0 <= least < 1 - LESS or max(shares.values()) > 1 + _CLOSE:
        return None
    own = int(batch.sequences.completion_mask[row, column].sum())
    whole = [int(each.sequences.completion_lengths[row, column]) for each in (batch, longer)]
    return broken(
        f"where the environment says more in a conversation ({whole[1]} tokens in the place of {whole[0]}), and the policy the "
        f"same {own}, these teach {least:.2g} times as much: what the environment said counts in a length or a mean",
        number=f"{least:.2g}",
        where="compute_loss",
        example=row_shown(subject, batch, row),
        mend="count the tokens of batch.loss_mask, loss_mask.sum(dim=-1): completion_lengths and the width of a tensor count "
        "those of others too",
    )


def _differ(values: Tensor) -> bool:
    """Whether these positive numbers differ."""
    return bool(len(values)) and float(values.max()) > (1 + _CLOSE) * float(values.min())


def turns(subject: Subject) -> Finding:
    """With credit per turn, the reward of a turn changes the advantage of that turn and not of later ones."""
    if subject.task.interaction is None or subject.task.interaction.credit != "turn":
        return skipped("no task with task.credit=turn")
    laboratory = subject.stand_in(spread=0.0)
    part = _drawn(subject, laboratory, None)
    if part is None:
        return skipped("the batch holds no advantages of tokens")
    counts = part.turns.amax(dim=-1) + 1
    places = torch.nonzero(counts >= 2).tolist()
    if not places:
        return skipped("no conversation of the draw has a second turn")
    row, column = places[0]
    key = part.sequences.prompts[row].tobytes(), part.sequences.completions[row][column].tobytes()
    text = part.texts[row][column]
    paid = _drawn(subject, laboratory, (text, 0))
    assert paid is not None
    same = paid.sequences.prompts[row].tobytes(), paid.sequences.completions[row][column].tobytes()
    if same != key:
        return skipped("two draws of the same numbers differ; see repeats")
    rewarded = torch.zeros(part.turns.shape, dtype=torch.bool)
    for number, texts in enumerate(part.texts):
        for place, said in enumerate(texts):
            rewarded[number, place] = said == text
    moved = _moved(paid.advantages.double(), paid.turns)
    own = rewarded & (paid.turns == 0)
    last = own & ~own.roll(-1, dims=-1)
    wrong = ""
    if not bool(moved[own].any()):
        wrong = "a reward of 1 for the first turn of a conversation does not move the advantage of that turn"
    elif not bool(moved[last].any()):
        wrong = "a reward of 1 for the first turn of a conversation does not move the advantage of the last token of that turn"
    elif bool(moved[paid.turns > 0].any()):
        wrong = "a reward of 1 for the first turn of a conversation moves the advantages of later turns"
    if wrong:
        return broken(
            wrong,
            where="draw",
            example=row_shown(subject, part, row),
            mend="a token's return is the sum of batch.token_rewards from it on: a turn's reward lies at its last token, and "
            "batch.turns numbers the turns from 0",
        )
    return passed(f"{int(own.sum())} tokens")


def _moved(advantages: Tensor, numbers: Tensor) -> Tensor:
    """Return bool [P, G, T] where advantages differ from the median of later turns, which no reward follows."""
    later = advantages[numbers > 0]
    level = float(later.median()) if len(later) else 0.0
    return (advantages - level).abs() > _CLOSE * max(1.0, float(advantages.abs().max()))


def _drawn(subject: Subject, laboratory: Laboratory, paid: tuple[str, int] | None) -> Any:
    """Return the part of a draw with advantages of tokens; rewards are 0, but 1 for the turn `paid`: (text, its number)."""
    laboratory.state.clear()
    task, laboratory.task = laboratory.task, with_turn_reward(laboratory.task, paid)
    try:
        if "values" not in laboratory.policy.leaves:
            subject.draw(laboratory)  # creates the values of every completion
            laboratory.state.clear()
        values = laboratory.policy.leaves.get("values")
        if values is not None:
            with torch.no_grad():
                values.zero_()
        batch = subject.draw(laboratory)
    finally:
        laboratory.task = task
    for part in parts_of(batch):
        advantages, numbers = getattr(part, "advantages", None), getattr(part, "turns", None)
        if isinstance(advantages, Tensor) and isinstance(numbers, Tensor) and advantages.shape == numbers.shape:
            return part
    return None


def with_turn_reward(task: Task, paid: tuple[str, int] | None) -> Task:
    """Return the task with rewards of 0, but 1 for one turn of a text's conversations. paid: (text, number of the turn)."""
    twin = copy.copy(task)

    def grade_all(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Graded]:
        found = []
        for prompt, _ in zip(prompts, completions, strict=True):
            number = paid[1] if paid is not None and prompt.columns["conversation"] == paid[0] else None
            earned = tuple(Earned(float(turn == number), turn) for turn in range(len(prompt.columns["turns"])))
            found.append(Graded({"reward": sum(piece.value for piece in earned)}, earned))
        return found

    object.__setattr__(twin, "grade_all", grade_all)
    return twin
