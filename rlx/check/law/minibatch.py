"""Part of the law of draws, on the minibatches into which a draw is split, and on its rows."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import Key, group_keys, parts_of, tensors_of
from rlx.check.finding import Finding, broken
from rlx.check.law.scale import rows_of
from rlx.check.subject import MOST_PARTS, Subject, row_shown
from rlx.seeding import Stream

MANY = 8  # updates that are examined
STEPS = (0, 1, 2)  # steps whose draws are examined


def same_minibatch(subject: Subject) -> Finding | None:
    """Return a finding if all updates of a draw learn from the same part of it."""
    batch = subject.draw(subject.stand_in())
    found = [rows_of(part) for seed in (0, 1) for part in subject.algorithm.updates(batch, Stream(seed, ("updates", 0)))]
    if len(found) < 4 or len(found[0]) >= len(batch) or any(rows != found[0] for rows in found):
        return None
    return broken(
        f"each of {len(found) // 2} updates of a draw learns from the same {len(found[0])} of its {len(batch)} rows, none from "
        "the others",
        number=f"{len(found[0])} of {len(batch)} rows",
        where="updates",
        mend="cut the draw into parts: batch.take(rows) for rows in torch.randperm(len(batch), generator=rng.torch()).chunk(n)",
    )


def values_of_other_rows(subject: Subject) -> Finding | None:
    """Return a finding if rows of an update have values that draw computed for other rows."""
    batch = subject.draw(subject.stand_in())
    whole = {} if len(parts_of(batch)) != 1 else {key: row for row, key in enumerate(_groups(batch))}
    if len(whole) < 2 or len(whole) != len(batch):
        return None
    made = dict(tensors_of(batch))
    for part in islice(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", 0))), MANY):
        own = [whole.get(key, -1) for key in _groups(part)] if len(parts_of(part)) == 1 else []
        for name, values in tensors_of(part) if own and min(own) >= 0 else ():
            if name not in made or values.shape[:1] != (len(own),) or made[name].shape[:1] != (len(batch),):
                continue
            width = min(values.shape[-1], made[name].shape[-1]) if values.ndim > 2 else None
            mine, theirs = values[..., :width], made[name][..., :width]
            if mine.shape[1:] != theirs.shape[1:]:
                continue
            astray = [row for row, place in enumerate(own) if not torch.equal(mine[row], theirs[place])]
            if astray and all(any(torch.equal(mine[row], other) for other in theirs) for row in astray):
                return broken(
                    f"in an update on {len(own)} of {len(batch)} rows of a draw, the {name.removeprefix('batch.')} of row "
                    f"{astray[0]} are those that draw made for another one",
                    number=f"{len(astray)} of {len(own)} rows",
                    where="updates",
                    example=row_shown(subject, part, astray[0]),
                    mend="batch.take(rows) takes everything along: leave what draw has made as it comes",
                )
    return None


def _groups(batch: Any) -> list[tuple[Key, ...]]:
    """Return the identity of each row of a batch: the tokens of its prompt and of all its completions."""
    return group_keys(parts_of(batch)[0].sequences)


def rows_come_unevenly(subject: Subject) -> Finding | None:
    """Return a finding if the updates of a draw use rows at some positions more often than others, in every draw.

    If rows are chosen at random or by their content, the positions differ between draws. The last rows of a draw, fewer than an
    update uses, may be dropped.
    """
    found: set[tuple[int, ...]] = set()
    for step in STEPS:
        batch = subject.draw(subject.stand_in(), step=step)
        whole = {} if len(parts_of(batch)) != 1 else {key: row for row, key in enumerate(_groups(batch))}
        if len(whole) < 2 or len(whole) != len(batch):
            return None
        parts = list(islice(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", step))), MOST_PARTS))
        if len(parts) < 2 or any(len(parts_of(part)) != 1 for part in parts) or len(parts) == MOST_PARTS:
            return None
        counts = Counter(whole.get(key, -1) for part in parts for key in _groups(part))
        found.add(tuple(counts[row] for row in range(len(batch))))
        if len(found) > 1 or -1 in counts:
            return None
    (times,) = found
    size, least, most = max(map(len, parts)), min(times), max(times)
    never = times.count(0)
    at_an_end = sorted(times) in (list(times), list(times)[::-1])
    if least == most or (least == 0 and most == 1 and never < size and at_an_end):
        return None
    row = times.index(least if least == 0 else most)
    if least == 0:
        what = f"{never} of {len(times)} rows of a draw reach none of its {len(parts)} updates"
    else:
        many = sum(each == most for each in times)
        what = f"{many} of {len(times)} rows of a draw are taken {most} times by its {len(parts)} updates, others {least} times"
    return broken(
        f"{what}: the same places in every draw",
        number=f"{never if least == 0 else most}",
        where="updates",
        example=row_shown(subject, batch, row),
        mend="range(0, len(batch), size) begins each part, batch[start : start + size] is all of it: the end of a slice is left "
        "out already",
    )


def group_stands_twice(subject: Subject) -> Finding | None:
    """Return a finding if every group that was sampled once is twice in the first batch of a replay buffer."""
    if Need.REWARDS not in subject.needs or subject.task.interaction is not None or subject.warm_up:
        return None
    laboratory = subject.stand_in()
    batch = subject.draw(laboratory)
    parts = parts_of(batch)
    if not laboratory.state or len(parts) != 1 or len(batch) < 2 or getattr(batch, "prompt_keys", None) is None:
        return None
    keys = list(zip(batch.prompt_keys, _groups(batch), strict=True))
    rows, advantages = Counter(keys), getattr(batch, "advantages", None)
    if min(rows.values()) < 2:
        return None
    if isinstance(advantages, Tensor) and advantages.shape[:1] == (len(keys),):  # replayed groups may serve another purpose
        roles = {(key, *each.flatten().tolist()) for key, each in zip(keys, advantages, strict=True)}
        if len(roles) > len(rows):
            return None
    return broken(
        f"each of the {len(rows)} groups of the first draw stands {min(rows.values())} times in its batch, once fresh and once "
        "out of what is kept: what is new counts twice",
        number=f"{min(rows.values())} times",
        where="draw",
        example=row_shown(subject, batch, 0),
        mend="buffer.sample(...) before buffer.add(fresh): then older groups stand beside the fresh ones",
    )
