"""The law that nobody learns to write prompts: all of a completion is learned, nothing before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.algorithm.contract_batch import parts_of
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Subject, row_shown
from rlx.data.preferences import PairBatch

FEW_ROWS = slice(0, 4)


def prompt(subject: Subject) -> Finding:
    """No gradient reaches what the model predicts of a prompt, only its completions."""
    setting = subject.real(moved=True)
    batch = subject.first_update(setting)[FEW_ROWS]
    if (found := _cut_elsewhere(subject, batch)) is not None:
        return found
    prompts = [tokens for part in parts_of(batch) for tokens in part.sequences.prompts]
    passes: list[tuple[Tensor, Tensor]] = []

    def seen(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tokens, logits = kwargs.get("input_ids", args[0] if args else None), getattr(output, "logits", None)
        if tokens is not None and logits is not None and logits.requires_grad and logits.shape[:2] == tokens.shape:
            passes.append((tokens, logits))

    handle = setting.policy.model.register_forward_hook(seen, with_kwargs=True)
    try:
        loss = subject.loss(setting, batch).loss
    finally:
        handle.remove()
    if not loss.requires_grad or not passes or not prompts:
        return skipped("the model's predictions are taken at completions alone")
    gradients = torch.autograd.grad(loss, [logits for _, logits in passes], allow_unused=True)
    looked = 0
    for (tokens, _), gradient in zip(passes, gradients, strict=True):
        for row, ids in enumerate(tokens.tolist() if gradient is not None else ()):
            start, length = _place(ids, prompts)
            looked += length > 0
            assert gradient is not None
            inside = gradient[row, start : start + max(0, length - 1)]
            if bool((inside != 0).any()):
                return broken(
                    f"a gradient reaches the tokens of the prompt (largest entry {float(inside.abs().max()):.1e})",
                    number=f"{float(inside.abs().max()):.0e}",
                    where="compute_loss",
                    example=repr(subject.policy.decode(np.array(ids[start : start + length]))),
                    mend="leave out the positions that predict the prompt: policy.token_logprobs(batch.sequences) has done so",
                )
    return holds(f"{looked} rows")


def _cut_elsewhere(subject: Subject, batch: Any) -> Finding | None:
    """Pairs of the task put together anew: the end of the prompt is learned too, or the end of the completion is not."""
    for part in parts_of(batch):
        if not (isinstance(part, PairBatch) and len(part.source) > int(part.rows.max(initial=-1))):
            continue
        given, used = part.source.sequences, part.sequences
        for row, place in enumerate(part.rows.tolist()):
            was, now = given.prompts[place].tolist(), used.prompts[row].tolist()
            if len(now) < len(was) and now == was[: len(now)] and used.completions[row][0][:1].tolist() == was[len(now) :][:1]:
                return broken(
                    f"{len(was) - len(now)} tokens at the end of a prompt are learned as if they were the completion's",
                    where="draw",
                    example=row_shown(subject, part, row),
                    mend="leave the sequences of lab.pairs as they are: prompts are read, completions learned",
                )
        pairs = list(zip(part.rows.tolist(), used.completions, strict=True))
        if pairs and all(np.array_equal(group[0], given.completions[place][0][:-1]) for place, group in pairs):
            return broken(
                "the last token of every completion is left out: the policy never learns to end",
                where="draw",
                example=row_shown(subject, part, 0),
                mend="leave the sequences of lab.pairs as they are: a completion ends with its end-of-sequence token",
            )
    return None


def _place(ids: list[int], prompts: list[np.ndarray]) -> tuple[int, int]:
    """(start, length) of the longest of the prompts that begins nearest to the left of a row, (0, 0) if none is there."""
    found = (0, 0)
    for tokens in prompts:
        wanted = tokens.tolist()
        starts = (start for start in range(len(ids) - len(wanted) + 1) if ids[start : start + len(wanted)] == wanted)
        start = next(starts, None)
        if start is not None and len(wanted) > found[1]:
            found = (start, len(wanted))
    return found
