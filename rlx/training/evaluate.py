"""The evaluation, the same for every algorithm: same metrics, same held-out data, same decoding.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlx.data.preferences import PairBatch
from rlx.errors import ConfigError, DataError
from rlx.loss.preference.base import ROUNDING
from rlx.parallel.ranks import ALONE, Ranks
from rlx.policy.base import Policy
from rlx.policy.reference import Reference, vocabulary_kl
from rlx.rollout.play import Played, play
from rlx.rollout.sampler import Rollout, Sampler
from rlx.seeding import Stream
from rlx.task.base import OF_PAIRS, Pair, Prompt, Task, Text, content_digest, content_uniform, pass_at_k
from rlx.task.environment import require_free
from rlx.training.gradients import micro_batches

T = TypeVar("T")
EVALUATION = Stream(0, ("evaluation",))  # the same random numbers in every run, so that runs share the evaluation noise


@dataclass(frozen=True)
class Evaluation:
    """Metrics without a prefix (`score`, `reward`, `kl`, ...), and completions to show.

    answers: the contribution to the score of each held-out prompt's greedy completion, or of each held-out pair; empty if the
    score comes from neither. completions: for each of the answers its prompt and the prompt's greedy completion; empty if
    num_shown is 0. digest: of the prompts or pairs behind the answers, in their order.
    """

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    tokens_sampled: int
    answers: tuple[float, ...] = ()
    completions: tuple[dict[str, Any], ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Evaluator:
    """Measures a policy on a task.

    num_prompts, num_pairs: the largest number of held-out prompts and pairs. samples_per_prompt: completions sampled at
    `temperature` for reward, KL and entropy. num_shown: how many prompts' completions every evaluation keeps; with 0 even the
    last one keeps none. pass_at_k: for each k, the probability that one of k sampled completions is correct, estimated from
    all samples; None: k = 1, 2, 4, ... if some completions can be correct.
    ranks: each measures a part; if there are several, `task` and `sampler` are those of rlx.rollout.split.
    """

    task: Task
    reference: Reference
    sampler: Sampler
    num_prompts: int
    samples_per_prompt: int
    num_pairs: int
    num_shown: int
    micro_batch: int | None
    pass_at_k: Sequence[int] | None = ()
    temperature: float = 1.0
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        counts = "rewards" in self.task.offers and self.task.full_reward_value() is not None
        if self.pass_at_k is None:
            doubled = tuple(2**power for power in range(self.samples_per_prompt.bit_length()))
            object.__setattr__(self, "pass_at_k", doubled if counts else ())
        unfit = [k for k in self.pass_at_k or () if not 1 <= k <= self.samples_per_prompt]
        if unfit:
            raise ConfigError(
                f"evaluation.pass_at_k holds {unfit[0]}; it is estimated from evaluation.samples_per_prompt="
                f"{self.samples_per_prompt} completions of a prompt, so k lies between 1 and that"
            )
        if self.pass_at_k and not counts:
            raise ConfigError(
                f"evaluation.pass_at_k counts correct completions, but task {self.task.name} does not define them; "
                "set task.full_reward to the reward of a correct one, or leave pass_at_k empty"
            )

    def __call__(self, policy: Policy) -> Evaluation:
        """Score and metrics of the current policy."""
        with torch.no_grad():
            prompts = self._prompts(policy)[: self.num_prompts]
            figures: dict[str, float] = {}
            samples: list[dict[str, Any]] = []
            tokens, answers, shown = 0, np.zeros(0), list[dict[str, Any]]()
            if prompts:
                greedy = self._play(policy, prompts, group_size=1, greedy=True)
                greedy.require_some_unbroken()
                sampled = self._play(policy, prompts, group_size=self.samples_per_prompt, greedy=False)
                tokens = sum(int(played.rollout.sequences.learned_lengths.sum()) for played in (greedy, sampled))
                rewards = None
                if greedy.graded is not None:
                    rewards = greedy.rewards()["reward"][:, 0]
                    answers = self._counted(rewards)
                    figures |= self._rewards(rewards, sampled.rewards())
                figures |= self._drift(policy, sampled.rollout)
                figures |= _of_conversations(sampled)
                shown = self._greedy_rows(prompts, greedy)
                samples = self._shown(shown, greedy, sampled, rewards)
            of_pairs, counts, pairs = self._of_pairs(policy)
            figures |= of_pairs
            counted = {name: float(part.mean()) for name, part in sampled.figures().items()} if prompts else {}
            require_free(counted, {"score", *figures}, of="an evaluation")
            figures |= counted
            if self.task.score not in figures:
                raise DataError(f"task {self.task.name} is scored by {self.task.score}, but nothing is held out to measure it on")
            by_score = {"accuracy": answers, "greedy_reward": answers, **dict.fromkeys(OF_PAIRS, counts)}
            scored = tuple(by_score.get(self.task.score, np.zeros(0)).tolist())
            content: list[Any] = [prompt.text for prompt in prompts]
            if self.task.score in OF_PAIRS:
                by_prompt = {_content(prompt.text): row for prompt, row in zip(prompts, shown, strict=True)} if shown else {}
                shown = [by_prompt.get(_content(pair.prompt), {"prompt": _plain(pair.prompt)}) for pair in pairs]
                content = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
            return Evaluation(
                {"score": figures[self.task.score], **figures},
                samples,
                tokens,
                scored,
                completions=tuple(shown) if scored and self.num_shown else (),
                digest=content_digest(content) if scored else "",
            )

    def _prompts(self, policy: Policy) -> Sequence[Prompt]:
        """The held-out prompts; for a task with pairs only, the prompts of pairs that tokenisation keeps."""
        prompts, pairs = self.task.held_out_prompts(), self.task.held_out_pairs()
        if not pairs or "rewards" in self.task.offers:
            return prompts
        kept = policy.pair_tokenizer(pairs).index
        if len(kept) == len(pairs):
            return prompts
        left = {_content(pairs[row].prompt) for row in kept}
        return [prompt for prompt in prompts if _content(prompt.text) in left]

    def _play(self, policy: Policy, prompts: Sequence[Prompt], *, group_size: int, greedy: bool) -> Played:
        return play(
            self.task,
            policy,
            self.sampler.in_process,
            prompts,
            group_size=group_size,
            stream=EVALUATION.child("sample"),
            prompt_keys=range(len(prompts)),
            temperature=self.temperature,
            greedy=greedy,
        )

    def _counted(self, rewards: np.ndarray) -> np.ndarray:
        """Contributions to the score: 1 for correct completions, else 0; the rewards if the task has no notion of correct."""
        full = self.task.full_reward_value()
        return rewards if full is None else (rewards >= full).astype(float)

    def _rewards(self, greedy: np.ndarray, sampled: dict[str, np.ndarray]) -> dict[str, float]:
        """greedy: rewards of the greedy completions, float64 [P]; sampled: name -> float64 [P, G]."""
        figures = {"accuracy": float(self._counted(greedy).mean())} if self.task.full_reward_value() is not None else {}
        rewards = sampled["reward"].mean(axis=1)
        figures |= {"reward": float(rewards.mean()), "reward_standard_error": standard_error_of_mean(rewards)}
        figures |= {"greedy_reward": float(greedy.mean())}
        if self.task.score == "greedy_reward":
            figures["score_standard_error"] = standard_error_of_mean(greedy)
        figures |= {f"reward/{name}": float(part.mean()) for name, part in sampled.items() if name != "reward"}
        for k in self.pass_at_k or ():
            right = self._counted(sampled["reward"]).sum(axis=1).astype(int).tolist()
            figures[f"pass_at_{k}"] = float(np.mean([pass_at_k(count, self.samples_per_prompt, k) for count in right]))
        return figures

    def _drift(self, policy: Policy, sampled: Rollout) -> dict[str, float]:
        """KL to the reference (nats per completion) and entropy on sampled completions, and their lengths."""

        def sums(rows: slice) -> tuple[float, float]:
            part_kl, part_entropy = vocabulary_kl(policy, self.reference, sampled.sequences[rows])
            return float(part_kl.double().sum()), float(part_entropy.double().sum())

        kl = entropy = 0.0
        for part_kl, part_entropy in self._each(micro_batches(sampled.sequences.row_tokens, self.micro_batch), sums):
            kl += part_kl
            entropy += part_entropy
        lengths = sampled.sequences.learned_lengths.double()
        return {
            "kl": kl / lengths.numel(),
            "entropy": entropy / max(1.0, float(lengths.sum())),
            "completion_length": float(lengths.mean()),
            "truncated_fraction": float((~sampled.finished).double().mean()),
        }

    def _each(self, parts: Iterable[slice], function: Callable[[slice], T]) -> list[T]:
        """function(rows) for each part; with N ranks each computes every N-th part."""
        ranks, asked = self.ranks, list(parts)
        given = ranks.exchange("an evaluation", lambda: [function(rows) for rows in asked[ranks.rank :: ranks.world]])
        return [given[place % ranks.world][place // ranks.world] for place in range(len(asked))]

    def _of_pairs(self, policy: Policy) -> tuple[dict[str, float], np.ndarray, list[Pair]]:
        """The metrics of held-out pairs, the contribution of each pair to their score, float64 [B], and these pairs."""
        pairs = self.task.held_out_pairs()
        tokenized = policy.pair_tokenizer(pairs) if pairs else None
        if tokenized is None or len(tokenized) == 0:
            return {}, np.zeros(0), []
        batch = PairBatch.of(tokenized, np.arange(min(len(tokenized), self.num_pairs)))
        measure = self._likelihood if "demonstrations" in self.task.offers else self._preferences
        figures, counts = measure(policy, batch)
        return figures, counts, [pairs[place] for place in tokenized.index[batch.rows]] if len(counts) else []

    def _likelihood(self, policy: Policy, batch: PairBatch) -> tuple[dict[str, float], np.ndarray]:
        """Mean log-probability per learned token of demonstrations, in nats, and the perplexity.

        Also the contribution of each demonstration to that mean: its tokens' log-probability over the mean number of tokens.
        """
        chosen = batch.chosen_only()

        def sums(rows: slice) -> Tensor:
            return policy.token_logprobs(chosen[rows].sequences)[:, 0].double().sum(dim=1)

        logprobs = torch.cat(self._each(micro_batches(chosen.row_tokens, self.micro_batch), sums)).cpu().numpy()
        counts = logprobs / chosen.chosen_mask.sum(dim=1).double().mean().item()
        mean = float(counts.mean())
        figures = {"log_likelihood": mean, "perplexity": float(np.exp(-mean))}
        if self.task.score == "log_likelihood":
            figures["score_standard_error"] = standard_error_of_mean(counts)
        return figures, counts

    def _preferences(self, policy: Policy, batch: PairBatch) -> tuple[dict[str, float], np.ndarray]:
        """Share of held-out pairs whose chosen completion has the larger implicit reward (ties count half); log-ratios in nats.

        Also the contribution of each pair to that share; empty if single completions are compared with all others.
        """

        def ratios(rows: slice) -> tuple[Tensor, Tensor]:
            ours, theirs = policy.pair_logprobs(batch[rows]), self.reference.pair_logprobs(batch[rows], comes_again=True)
            return (ours.chosen_sum - theirs.chosen_sum).double(), (ours.rejected_sum - theirs.rejected_sum).double()

        found = self._each(micro_batches(batch.row_tokens, self.micro_batch), ratios)
        chosen_ratio, rejected_ratio = torch.cat([chosen for chosen, _ in found]), torch.cat([rejected for _, rejected in found])
        margin = chosen_ratio - rejected_ratio
        if batch.has_label is not None:  # single completions: every desirable one against every undesirable one
            chosen_ratio, rejected_ratio = chosen_ratio[batch.has_label[:, 0]], rejected_ratio[batch.has_label[:, 1]]
            margin = (chosen_ratio[:, None] - rejected_ratio).reshape(-1)
        tied = margin.abs() <= ROUNDING
        wins = torch.where(tied, 0.5, (margin > 0).double())
        figures = {
            "pair_accuracy": float(wins.mean()),
            "log_ratio_chosen": float(chosen_ratio.mean()),
            "log_ratio_rejected": float(rejected_ratio.mean()),
            "log_ratio_margin": float(margin.mean()),
        }
        if batch.has_label is not None:
            return figures, np.zeros(0)
        return figures, wins.cpu().numpy()

    def _greedy_rows(self, prompts: Sequence[Prompt], greedy: Played) -> list[dict[str, Any]]:
        """Each prompt with its greedy completion."""
        openings = [prompt.text for prompt in prompts]
        if greedy.conversations is not None:
            openings = [group[0].opening for group in greedy.conversations]
        return [
            {"prompt": _plain(opening), "completion": group[0]} for opening, group in zip(openings, greedy.texts, strict=True)
        ]

    def _shown(
        self, greedy_rows: Sequence[dict[str, Any]], greedy: Played, sampled: Played, rewards: np.ndarray | None
    ) -> list[dict[str, Any]]:
        rows = []
        for index, shown in enumerate(greedy_rows[: self.num_shown]):
            row = {**shown, "sampled": sampled.texts[index][0]}
            if greedy.conversations is not None:
                row |= {"turns": greedy.conversations[index][0].to_dict()}
            if rewards is not None:
                row["reward"] = float(rewards[index])
            rows.append(row)
        return rows


def _of_conversations(played: Played) -> dict[str, float]:
    """The mean number of turns, and the share of conversations that the environment aborted."""
    if played.failed is None:
        return {}
    turns = [len(spans) for group in played.turn_spans for spans in group]
    return {"turns": float(np.mean(turns)), "environment_failed": float(played.failed.double().mean())}


def standard_error_of_mean(values: np.ndarray) -> float:
    """The standard error of the mean of values [P]; nan for a single one."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _plain(text: Text) -> Any:
    """A prompt in the form that a record stores."""
    return text if isinstance(text, str) else list(text)


def _content(text: Text) -> float:
    """A number that is equal for prompts of equal content."""
    return content_uniform(text, salt="evaluation")
