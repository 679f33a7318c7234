"""Sampling in this process, from the policy's own transformers model.

The distribution is that of the logits: the model's generation settings (a repetition penalty, a top-k) are not applied, since
the log-probabilities in training do not include them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlx.fields import count
from rlx.rollout.decoding.loop import Completions, StopStrings, choose, decode
from rlx.rollout.sampler import Draw, Sampler

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.rollout.decoding.forward import Past


@dataclass(frozen=True, kw_only=True)
class TransformersSampler(Sampler):
    """Decodes in batches up to a token budget; common prefixes are computed once.

    batch_tokens: tokens of prompts and longest completions decoded together; it bounds memory and affects only rounding. Between
    turns of conversations, keys and values of at most as many tokens are kept, so that a turn computes only its new tokens.
    """

    batch_tokens: int = count()

    @property
    def in_process(self) -> TransformersSampler:
        return self

    def new_past(self, policy: Policy) -> Past | None:
        from rlx.rollout.decoding.forward import Past
        from rlx.rollout.decoding.probe import continues

        return Past(self.batch_tokens) if continues(policy.model) else None

    def prepare(self, policy: Policy) -> None:
        from rlx.rollout.decoding.probe import forward_for

        _, note = forward_for(policy.model)
        if note and note not in policy.notes:
            policy.notes.append(note)

    @torch.no_grad()
    def complete(self, policy: Policy, draw: Draw) -> Completions:
        """The completions of all prompts, in batches of prompts of similar length."""
        from rlx.rollout.decoding.probe import forward_for

        self.prepare(policy)
        group = draw.group_size
        keys = None if draw.greedy else draw.keys.reshape(-1, group)
        pick = partial(choose, temperature=draw.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)
        out = Completions.empty(len(draw.prompts) * group, int(draw.limits.max()))
        if draw.past is not None:
            draw.past.forget_others(draw.names)
        for rows in self._batches(draw):
            with policy.forward_settings.context(policy.device):
                made = decode(
                    forward_for(policy.model)[0],
                    [draw.prompts[row] for row in rows],
                    group_size=group,
                    limits=draw.limits[rows],
                    end_tokens=policy.eos_token_ids,
                    keys=None if keys is None else keys[rows].reshape(-1),
                    choose=pick,
                    stop=StopStrings(self.stop, policy.decode) if self.stop else None,
                    past=draw.past,
                    names=[draw.names[row * group + column] for row in rows for column in range(group)] if draw.names else (),
                )
            out.place(made, (rows[:, None] * group + np.arange(group)).reshape(-1))
        return out

    def largest_batch(self, policy: Policy, prompts: int, group_size: int, *, length: int, limit: int) -> tuple[int, int]:
        from rlx.rollout.decoding.llama import shares_prompts, supports_llama_forward

        together = min(prompts, max(1, self.batch_tokens // (group_size * (length + limit))))
        rows = together * group_size
        shared = supports_llama_forward(policy.model) and shares_prompts(together, rows, length)
        return together, (together if shared else rows) * length + rows * limit

    def _batches(self, draw: Draw) -> Iterator[np.ndarray]:
        """The prompts that are decoded together, int64 [P']: similar lengths, within the budget, at least one.

        Prompts without cached states come last, as a batch computes as many tokens for each row as for its least cached row.
        """
        lengths = np.array([len(prompt) for prompt in draw.prompts])
        past = draw.past
        is_new = [past is None or not past.holds(name) for name in draw.names[:: draw.group_size]] or [True] * len(lengths)
        order = np.lexsort((lengths, np.array(is_new)))
        first, width = 0, 0
        for last, row in enumerate(order.tolist()):
            width = max(width, int(lengths[row] + draw.limits[row]))
            if last > first and (last - first + 1) * draw.group_size * width > self.batch_tokens:
                yield order[first:last]
                first, width = last, int(lengths[row] + draw.limits[row])
        yield order[first:]
