"""Compares the log-probabilities that a server reports with the policy's: is the difference within rounding error?

Both compute log_softmax(logits / temperature) of the same tokens, so they differ only by rounding, unless the server has other
weights, another temperature, or another model. Dimensions: N completion tokens, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlx.data.sequences import Sequences, Tokens
from rlx.errors import TrainingError

if TYPE_CHECKING:
    from rlx.policy.base import Policy

DTYPES = ("float32", "bfloat16", "float16")
_ROUNDINGS = 32.0  # largest error of a log-probability, in rounding units of the forward pass's largest number
_OWN_ERRORS = 8.0  # allowed difference between two implementations, as a multiple of the policy's own rounding error
_LEAST_SIZE = 8.0  # nats: lower bound of the size of logits with which errors scale
_MEAN_SHARE = 1 / 16  # ratio of the mean of many differences to the largest one
_UNLIKELY = 6.0  # standard errors
_TEMPERATURES = (0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 4.0)


@dataclass(frozen=True)
class Tolerance:
    """The differences that rounding can explain, in nats: the mean and the largest difference of log-probabilities."""

    mean: float
    largest: float


def tolerance(policy: Policy, dtype: str | None, *, num_tokens: int, least: float) -> Tolerance:
    """The differences that rounding explains if the server computes in `dtype` (None: the policy's dtype).

    u is the unit roundoff of the coarser dtype. Each of the L layers rounds what it adds to the hidden states; the errors are
    independent, so they grow with sqrt(L), and they scale with the logits, whose size `least`, the lowest log-probability, shows.
    The largest of the differences is about 32 u sqrt(L) max(8, |least|), except at tokens where the model magnifies rounding (see
    `own_rounding`); their mean is 1/16 of it, more over few tokens.
    """
    roundoff = torch.finfo(_computed(policy)).eps / 2 * _coarser(policy, dtype)
    layers = getattr(policy.model.config, "num_hidden_layers", None) or 1
    largest = _ROUNDINGS * roundoff * math.sqrt(layers) * max(_LEAST_SIZE, abs(least))
    return Tolerance(mean=largest * (_MEAN_SHARE + 1 / max(1, num_tokens)), largest=largest)


def _computed(policy: Policy) -> torch.dtype:
    """The dtype of the policy's matrix products."""
    return policy.forward_settings.autocast or policy.dtype


def _coarser(policy: Policy, dtype: str | None) -> float:
    """How many times coarser the server's arithmetic is than the policy's; 1 if it is not coarser."""
    return 1.0 if dtype is None else max(1.0, torch.finfo(getattr(torch, dtype)).eps / torch.finfo(_computed(policy)).eps)


@dataclass(frozen=True, eq=False)
class Reported:
    """Completions with the log-probabilities that a server reports for their tokens, one float32 array each."""

    prompts: tuple[Tokens, ...]
    completions: tuple[Tokens, ...]
    logprobs: tuple[np.ndarray, ...]
    temperature: float

    def spread(self, most: int | None) -> Reported:
        """At most `most` of them, evenly spaced, including the first and the last."""
        if most is None or len(self.prompts) <= most:
            return self
        return self.take(np.unique(np.linspace(0, len(self.prompts) - 1, most).round().astype(int)).tolist())

    def take(self, rows: Sequence[int]) -> Reported:
        """The same for only the completions `rows`."""
        return Reported(
            prompts=tuple(self.prompts[row] for row in rows),
            completions=tuple(self.completions[row] for row in rows),
            logprobs=tuple(self.logprobs[row] for row in rows),
            temperature=self.temperature,
        )

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Split values [N] of all tokens into one array per completion."""
        return np.split(values, np.cumsum([len(tokens) for tokens in self.completions])[:-1])


@dataclass(frozen=True, eq=False)
class LogprobGap:
    """theirs, ours: [N] log-probabilities by the server and by the policy. surprise: [N] ours plus the policy's entropy at that
    token; its mean is 0 if the tokens are samples of the policy.
    """

    theirs: np.ndarray
    ours: np.ndarray
    surprise: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """[N] absolute differences, in nats."""
        found: np.ndarray = np.abs(self.theirs - self.ours)
        return found

    def exceeds(self, limit: Tolerance) -> bool:
        """Whether the differences exceed what rounding explains."""
        return len(self.ours) > 0 and bool(self.differences.mean() > limit.mean or self.differences.max() > limit.largest)

    @property
    def standard_errors(self) -> float:
        """By how many standard errors the tokens are more likely (above 0) or less likely than samples of the policy."""
        size = math.sqrt(float(np.square(self.surprise).sum()))
        return float(self.surprise.sum()) / size if size > 0 else 0.0


@torch.no_grad()
def logprob_gap(policy: Policy, reported: Reported, *, batch_tokens: int, temperature: float | None = None) -> LogprobGap:
    """The server's and the policy's log-probabilities of the same tokens.

    batch_tokens: tokens per forward pass. temperature: for the policy's log-probabilities, None for the server's temperature.
    """
    used = reported.temperature if temperature is None else temperature
    ours, surprise = [], []
    lengths = [len(prompt) + len(tokens) for prompt, tokens in zip(reported.prompts, reported.completions, strict=True)]
    for first, end in pairwise(_cuts(lengths, batch_tokens)):
        sequences = Sequences(reported.prompts[first:end], tuple((tokens,) for tokens in reported.completions[first:end]))
        # Calls the class's method: with several ranks the instance's method must be called by every rank.
        found = type(policy).token_statistics(policy, sequences, temperature=used, requires=frozenset({"entropy"}))
        assert found.entropy is not None
        mask = sequences.token_mask
        logprobs = found.token_logprobs.cpu()[mask]
        ours.append(logprobs.double().numpy())
        surprise.append((logprobs + found.entropy.cpu()[mask]).double().numpy())
    return LogprobGap(np.concatenate(reported.logprobs).astype(np.float64), np.concatenate(ours), np.concatenate(surprise))


def own_rounding(policy: Policy, reported: Reported, found: LogprobGap, *, dtype: str | None, batch_tokens: int) -> Tolerance:
    """What rounding explains at exactly these tokens: 8 times the policy's own errors, measured against finer arithmetic.

    At some tokens a model magnifies rounding errors a hundred times more than at most others, on the server as here. It copies
    the model to float64 (float32 for 16-bit models), so it is used only for differences that `tolerance` does not explain.
    """
    twin = policy.frozen_copy()
    finer = torch.float32 if policy.is_coarse else torch.float64
    twin.model, twin.forward_settings = twin.model.to(finer), replace(twin.forward_settings, autocast=None)
    errors = (
        np.abs(logprob_gap(twin, reported, batch_tokens=batch_tokens).ours - found.ours) * _OWN_ERRORS * _coarser(policy, dtype)
    )
    return Tolerance(mean=float(errors.mean()), largest=float(errors.max(initial=0.0)))


def _cuts(lengths: Sequence[int], most: int) -> list[int]:
    """Slices of consecutive rows with at most `most` tokens each, or a single row."""
    cuts, total = [0], 0
    for row, length in enumerate(lengths):
        if total and total + length > most:
            cuts.append(row)
            total = 0
        total += length
    return [*cuts, len(lengths)]


@dataclass
class Watch:
    """Compares the log-probabilities reported by one server with the policy's.

    dtype: the server's dtype, None for the policy's. checks: whether a difference that rounding does not explain is an error,
    as it is if the server has received the policy's weights. truncates: whether it samples from a truncated distribution.
    """

    name: str
    dtype: str | None
    batch_tokens: int
    checks: bool
    truncates: bool
    differences: list[np.ndarray] = field(default_factory=list)
    _before: tuple[Reported, np.ndarray] | None = None  # the last probe, and the policy's log-probabilities of it

    def begin(self) -> None:
        """Forget the differences of the last draw."""
        self.differences.clear()

    def probe(self, policy: Policy, reported: Reported, *, version: int) -> None:
        """Repeat one request; raise TrainingError if its log-probabilities do not come from the policy's weights."""
        found = logprob_gap(policy, reported, batch_tokens=self.batch_tokens)
        stale = self._unchanged(policy, reported, found)
        self._before = (reported, found.ours)
        limit = self._limit_at(policy, reported, found)
        if found.exceeds(limit) or stale:
            raise self._error(policy, reported, found, limit, version=version, stale=stale)

    def _unchanged(self, policy: Policy, reported: Reported, found: LogprobGap) -> bool:
        """Whether the server's answer is bitwise equal to that before the sync although the policy's log-probabilities changed by
        more than rounding. For such small changes the mean difference alone would not show it.
        """
        if self._before is None:
            return False
        before, ours = self._before
        equal = len(ours) == len(found.ours) and all(
            np.array_equal(a, b) and np.array_equal(x, y)
            for a, b, x, y in zip(before.completions, reported.completions, before.logprobs, reported.logprobs, strict=True)
        )
        return equal and float(np.abs(ours - found.ours).mean()) > self._limit(policy, found).mean / 2

    def draw(self, policy: Policy, reported: Reported, *, greedy: bool, version: int | None) -> None:
        """Record the differences for completions of a draw. Raises TrainingError if they cannot come from the policy."""
        found = logprob_gap(policy, reported, batch_tokens=self.batch_tokens)
        self.differences.append(found.differences)
        if not self.checks:
            return
        limit = self._limit_at(policy, reported, found)
        if found.exceeds(limit):
            raise self._error(policy, reported, found, limit, version=version, stale=False)
        if not greedy and not self.truncates and abs(found.standard_errors) > _UNLIKELY:
            likelier = "likelier" if found.standard_errors > 0 else "less likely"
            side = "below" if found.standard_errors > 0 else "above"
            raise TrainingError(
                f"{self.name} reports the policy's log-probabilities, but over {len(found.ours)} tokens its samples are "
                f"{likelier} than the policy's: log-probability {found.ours.mean():.4f} in the mean, and "
                f"{(found.ours - found.surprise).mean():.4f} is expected ({abs(found.standard_errors):.1f} standard errors). "
                f"Likely cause: it samples at a temperature {side} {reported.temperature:g}, or from a truncated distribution; "
                "look at its generation settings (vLLM: --generation-config vllm)"
            )

    def figures(self) -> dict[str, float]:
        """The mean and the largest difference of the last draw, in nats."""
        if not self.differences:
            return {}
        together = np.concatenate(self.differences)
        return {"sampling_gap": float(together.mean()), "sampling_gap_largest": float(together.max())}

    def _limit(self, policy: Policy, found: LogprobGap) -> Tolerance:
        return tolerance(policy, self.dtype, num_tokens=len(found.ours), least=float(found.ours.min(initial=0.0)))

    def _limit_at(self, policy: Policy, reported: Reported, found: LogprobGap) -> Tolerance:
        """`_limit`, or if that is exceeded, the tolerance from the policy's own rounding at these tokens."""
        limit = self._limit(policy, found)
        if not found.exceeds(limit):
            return limit
        own = own_rounding(policy, reported, found, dtype=self.dtype, batch_tokens=self.batch_tokens)
        return Tolerance(mean=max(limit.mean, own.mean), largest=max(limit.largest, own.largest))

    def _error(
        self, policy: Policy, reported: Reported, found: LogprobGap, limit: Tolerance, *, version: int | None, stale: bool
    ) -> TrainingError:
        worst = int(found.differences.argmax())
        wrong = reported.take([row for row, part in enumerate(reported.split(found.differences)) if part.max() > limit.mean])
        wrong = wrong if wrong.prompts else reported
        return TrainingError(
            f"{self.name} does not sample from the policy's weights of version {version}: a token has log-probability "
            f"{found.theirs[worst]:.6f} there and {found.ours[worst]:.6f} under the policy; over {len(found.ours)} tokens they "
            f"differ by {found.differences.mean():.2g} in the mean and {found.differences.max():.2g} at most, in "
            f"{len(wrong.prompts)} of {len(reported.prompts)} completions, and rounding explains {limit.mean:.2g} and "
            f"{limit.largest:.2g}. Likely cause: {self._cause(policy, wrong, limit, stale=stale)}"
        )

    def _cause(self, policy: Policy, reported: Reported, limit: Tolerance, *, stale: bool) -> str:
        if stale:
            return (
                "it answers as before the sync, to the last bit: it said that it loaded the weights and kept its old ones (vLLM "
                "on CPU keeps packed copies of linear layers, unless rollout=vllm started it)"
            )

        if policy.adapter is not None:
            with policy.adapter.start():
                if self._explains(policy, reported, limit):
                    return "it has the weights that the run began with: the adapter was not loaded, or the server was restarted"
        for temperature in _TEMPERATURES:
            if self._explains(policy, reported, limit, temperature=temperature):
                return f"it computes at temperature {temperature:g} and not at {reported.temperature:g}; see rollout.logprobs"
        return (
            "it has other weights: those of an earlier version, a part of the new ones, or another model; compare the server's "
            "model with policy.path, look at its log, and set rollout.dtype if it computes in another precision than the policy"
        )

    def _explains(self, policy: Policy, reported: Reported, limit: Tolerance, *, temperature: float | None = None) -> bool:
        return not logprob_gap(policy, reported, batch_tokens=self.batch_tokens, temperature=temperature).exceeds(limit)
