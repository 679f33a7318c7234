"""The one evaluation: the same measurement, on the same held-out data, with the same decoding, for every algorithm.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlx.data.preferences import PairBatch
from rlx.errors import DataError
from rlx.policy.base import Policy
from rlx.policy.reference import Reference, vocabulary_kl
from rlx.rollout.sampler import Rollout, Sampler
from rlx.seeding import Stream
from rlx.task.base import Prompt, Task
from rlx.train.gradients import micro_batches

ROUNDING = 1e-3  # nats: two forwards of one model over a long completion differ by less; nearer margins are ties
EVALUATION = Stream(0, ("evaluation",))  # the same numbers for every run: evaluation noise is shared, not added


@dataclass(frozen=True)
class Evaluation:
    """Figures without a prefix (`score`, `reward`, `kl`, ...), and completions to show."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    tokens_sampled: int


@dataclass(frozen=True)
class Evaluator:
    """Measures a policy on a task.

    num_prompts, num_pairs: at most this many held-out ones. samples_per_prompt: completions sampled at temperature 1 for reward, KL
    and entropy. num_shown: how many prompts' completions are kept in the record.
    """

    task: Task
    reference: Reference
    sampler: Sampler
    num_prompts: int
    samples_per_prompt: int
    num_pairs: int
    num_shown: int
    micro_batch: int | None

    def __call__(self, policy: Policy) -> Evaluation:
        """Score and figures of the policy as it is now."""
        with torch.no_grad():
            prompts = self.task.held_out_prompts()[: self.num_prompts]
            figures: dict[str, float] = {}
            samples: list[dict[str, Any]] = []
            tokens = 0
            if prompts:
                encoded = [policy.encode_prompt(prompt.text) for prompt in prompts]
                greedy = self._sample(policy, encoded, group_size=1, greedy=True)
                sampled = self._sample(policy, encoded, group_size=self.samples_per_prompt, greedy=False)
                tokens = sum(int(rollout.sequences.completion_lengths.sum()) for rollout in (greedy, sampled))
                figures |= self._rewards(policy, prompts, greedy, sampled) | self._drift(policy, sampled)
                samples = self._shown(policy, prompts, greedy, sampled)
            figures |= self._preferences(policy)
            if self.task.score not in figures:
                raise DataError(f"task {self.task.name} is scored by {self.task.score}, but nothing is held out to measure it on")
            return Evaluation({"score": figures[self.task.score], **figures}, samples, tokens)

    def _sample(self, policy: Policy, encoded: Sequence[np.ndarray], *, group_size: int, greedy: bool) -> Rollout:
        return self.sampler.sample(
            policy,
            encoded,
            group_size=group_size,
            stream=EVALUATION.child("sample"),
            prompt_keys=range(len(encoded)),
            max_new_tokens=self.task.max_new_tokens,
            temperature=1.0,
            greedy=greedy,
        )

    def _rewards(self, policy: Policy, prompts: Sequence[Prompt], greedy: Rollout, sampled: Rollout) -> dict[str, float]:
        if "rewards" not in self.task.offers:
            return {}
        accuracy = np.mean([reward == 1.0 for reward in self._reward(policy, prompts, greedy).reshape(-1)])
        rewards = self._reward(policy, prompts, sampled).mean(axis=1)
        error = float(rewards.std(ddof=1) / len(rewards) ** 0.5) if len(rewards) > 1 else float("nan")
        return {"accuracy": float(accuracy), "reward": float(rewards.mean()), "reward_standard_error": error}

    def _reward(self, policy: Policy, prompts: Sequence[Prompt], rollout: Rollout) -> np.ndarray:
        """float64 [P, G]."""
        groups = zip(prompts, rollout.sequences.completions, strict=True)
        return np.array([[self.task.reward(prompt, policy.decode(tokens))["reward"] for tokens in group] for prompt, group in groups])

    def _drift(self, policy: Policy, sampled: Rollout) -> dict[str, float]:
        """How far the policy is from the reference on its own completions, and how they look. KL in nats per completion."""
        kl = entropy = 0.0
        for rows in micro_batches(sampled.sequences.row_tokens, self.micro_batch):
            part_kl, part_entropy = vocabulary_kl(policy, self.reference, sampled.sequences[rows])
            kl += float(part_kl.double().sum())
            entropy += float(part_entropy.double().sum())
        lengths = sampled.sequences.completion_lengths.double()
        return {
            "kl": kl / lengths.numel(),
            "entropy": entropy / max(1.0, float(lengths.sum())),
            "completion_length": float(lengths.mean()),
            "truncated_fraction": float((~sampled.finished).double().mean()),
        }

    def _preferences(self, policy: Policy) -> dict[str, float]:
        """Held-out pairs: share whose implicit reward is larger for the chosen one (ties count half), and log-ratios in nats."""
        pairs = self.task.held_out_pairs()
        tokenized = policy.tokenized(pairs) if pairs else None
        if tokenized is None or len(tokenized) == 0:
            return {}
        batch = PairBatch.of(tokenized, np.arange(min(len(tokenized), self.num_pairs)))
        chosen, rejected = [], []
        for rows in micro_batches(batch.row_tokens, self.micro_batch):
            ours, theirs = policy.pair_logprobs(batch[rows]), self.reference.pair_logprobs(batch[rows])
            chosen.append((ours.chosen_sum - theirs.chosen_sum).double())
            rejected.append((ours.rejected_sum - theirs.rejected_sum).double())
        chosen_ratio, rejected_ratio = torch.cat(chosen), torch.cat(rejected)
        margin = chosen_ratio - rejected_ratio
        tied = margin.abs() <= ROUNDING
        return {
            "pair_accuracy": float(torch.where(tied, 0.5, (margin > 0).double()).mean()),
            "log_ratio_chosen": float(chosen_ratio.mean()),
            "log_ratio_rejected": float(rejected_ratio.mean()),
            "log_ratio_margin": float(margin.mean()),
        }

    def _shown(self, policy: Policy, prompts: Sequence[Prompt], greedy: Rollout, sampled: Rollout) -> list[dict[str, Any]]:
        rows = []
        for index, prompt in enumerate(prompts[: self.num_shown]):
            row: dict[str, Any] = {"prompt": prompt.text if isinstance(prompt.text, str) else list(prompt.text)}
            row["completion"] = policy.decode(greedy.sequences.completions[index][0])
            row["sampled"] = policy.decode(sampled.sequences.completions[index][0])
            if "rewards" in self.task.offers:
                row["reward"] = self.task.reward(prompt, row["completion"])["reward"]
            rows.append(row)
        return rows

