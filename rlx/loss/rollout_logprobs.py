"""What a policy-gradient loss reads: token log-probabilities and advantages of sampled completions.

Dimensions: B sequences (leading dimensions [P, G] will do too), T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.loss.pairs import masked
from rlx.seeding import Stream

OPTIONAL = ("entropy", "vocabulary_kl", "proximal_logprobs", "rng")


@dataclass(frozen=True, eq=False)
class RolloutLogprobs:
    """Sampled completions under the policy that learns; every tensor is 0 outside of the mask.

    token_logprobs: [B, T] under the policy. sampling_logprobs: [B, T] under the policy that sampled. advantages: [B, T].
    completion_mask: bool [B, T]. reference_logprobs: [B, T] or None.
    The other fields are there only where a loss names them in `requires`:
    entropy: [B, T] of the policy, in nats, with its gradient; vocabulary_kl: [B, T] KL(policy || reference) over the vocabulary;
    proximal_logprobs: [B, T] under the policy as it was when the batch was drawn, computed by the code that trains it, where
        that differs from the code that samples; rng: a Stream, whose numbers are the same at every call, or a torch.Generator.
    """

    token_logprobs: Tensor
    sampling_logprobs: Tensor
    advantages: Tensor
    completion_mask: Tensor
    reference_logprobs: Tensor | None = None
    entropy: Tensor | None = None
    vocabulary_kl: Tensor | None = None
    proximal_logprobs: Tensor | None = None
    rng: torch.Generator | None = None

    @staticmethod
    def of(
        token_logprobs: Tensor,
        sampling_logprobs: Tensor,
        advantages: Tensor,
        completion_mask: Tensor,
        reference_logprobs: Tensor | None,
        **required: Any,
    ) -> RolloutLogprobs:
        """Checked, masked, and advantages given one a sequence spread over its tokens."""
        shape = completion_mask.shape
        unknown = sorted(set(required) - set(OPTIONAL))
        if unknown:
            raise ShapeError(f"a policy-gradient loss reads no {', '.join(unknown)}; it may read {', '.join(OPTIONAL)}")
        if completion_mask.dtype != torch.bool:
            raise ShapeError(f"completion_mask has dtype {completion_mask.dtype}; make it bool")
        if advantages.shape == shape[:-1]:
            advantages = advantages[..., None].expand(shape)
        rng = required.pop("rng", None)
        rng = rng.torch() if isinstance(rng, Stream) else rng
        tensors = {
            "token_logprobs": token_logprobs,
            "sampling_logprobs": sampling_logprobs,
            "advantages": advantages,
            "reference_logprobs": reference_logprobs,
            **required,
        }
        for name, tensor in tensors.items():
            if tensor is not None and tensor.shape != shape:
                raise ShapeError(f"{name} is {tuple(tensor.shape)}, but completion_mask {tuple(shape)}; they must agree")
        for name in ("sampling_logprobs", "advantages", "reference_logprobs", "proximal_logprobs"):
            given = tensors.get(name)
            tensors[name] = None if given is None else given.detach().to(token_logprobs.dtype)
        clean = {name: None if tensor is None else masked(tensor, completion_mask) for name, tensor in tensors.items()}
        return RolloutLogprobs(completion_mask=completion_mask, rng=rng, **clean)  # type: ignore[arg-type]

    @property
    def behaviour_logprobs(self) -> Tensor:
        """[B, T] what ratios are taken to: proximal_logprobs where they are given, else sampling_logprobs."""
        return self.sampling_logprobs if self.proximal_logprobs is None else self.proximal_logprobs

    @property
    def log_ratio(self) -> Tensor:
        """[B, T] log π - log of the policy that ratios are taken to."""
        return self.token_logprobs - self.behaviour_logprobs

    def mean_over_tokens(self, values: Tensor) -> Tensor:
        """[B, T] the mean of `values` over each sequence, at each of its tokens; 0 for an empty one. values: [B, T]."""
        lengths = self.completion_mask.sum(dim=-1, keepdim=True).clamp(min=1)
        return (masked(values, self.completion_mask).sum(dim=-1, keepdim=True) / lengths).expand_as(values)
