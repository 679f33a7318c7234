"""The law that nobody learns to write prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.algorithm.contract_batch import parts_of
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Subject

ROWS = slice(0, 4)


def prompt(subject: Subject) -> Finding:
    """No gradient reaches what the model predicts of a prompt, only its completions."""
    setting = subject.real(moved=True)
    batch = subject.first_update(setting)[ROWS]
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
