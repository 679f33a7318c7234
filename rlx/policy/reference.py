"""The reference: a frozen copy of the policy before training, or one that follows it (TR-DPO).

Dimensions: P prompts, G completions of a prompt, B pairs, T tokens, N completion tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from rlx.data.layout import ROUNDING
from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.data.stores import TensorStore
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import ConfigError
from rlx.fields import within
from rlx.loss.preference.base import PreferenceModifier
from rlx.loss.preference.pairs import PairLogprobs
from rlx.policy.base import Policy
from rlx.policy.pieces import HeadInput
from rlx.policy.statistics import NO_STATISTICS, TokenStatistics, pair_logprobs_of, unflatten
from rlx.policy.verify import TOLERANCE

_log = logging.getLogger("rlx")


class ReferenceStore:
    """Reference log-probabilities on disk: blocks of consecutive pairs, each in a file named by a hash of all its inputs.

    folder: for one policy, created by the first write; None: keep nothing.
    arithmetic: identifies the rounding; see arithmetic_of.
    """

    def __init__(self, folder: Path | None, arithmetic: str) -> None:
        self.folder = folder
        self._arithmetic = arithmetic.encode()
        self._files = TensorStore(folder, "reference log-probabilities")

    def read(self, block: Sequences) -> Tensor | None:
        """float [N] log-probabilities of the completion tokens of `block`; None if they are absent or damaged."""
        values = (self._files.read(self._name(block)) or {}).get("token_logprobs")
        if values is not None and values.shape != (int(block.learned_lengths.sum()),):
            _log.warning("the cached values in %s are of other tokens; they are computed again and replaced", self.path(block))
            return None
        return values

    def write(self, block: Sequences, values: Tensor) -> None:
        """Store [N] log-probabilities of `block`."""
        self._files.write(self._name(block), {"token_logprobs": values})

    def claim(self, block: Sequences, *, wait: bool) -> contextlib.AbstractContextManager[bool]:
        """Whether this process computes `block`: see TensorStore.claim."""
        return self._files.claim(self._name(block), wait=wait)

    def path(self, block: Sequences) -> Path | None:
        """The file of a block."""
        return self._files.path(self._name(block))

    def _name(self, block: Sequences) -> str:
        digest = hashlib.blake2b(self._arithmetic, digest_size=16)
        for prompt, group in zip(block.prompts, block.completions, strict=True):
            for tokens in (prompt, *group):
                digest.update(len(tokens).to_bytes(8, "little") + tokens.tobytes())
        if block.learned_tokens is not None:
            digest.update(block.learned_tokens.numpy().tobytes())
        return digest.hexdigest()


def arithmetic_of(device: torch.device, *, layout: str, autocast: torch.dtype | None = None, onednn: bool = False) -> str:
    """Everything besides inputs that affects rounding in a forward pass: versions, threads, hardware, layout, matmul library."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    cast = ("" if autocast is None else f", autocast {autocast}") + (", oneDNN" if onednn else "")
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device.type} {hardware}, {layout} {ROUNDING}{cast}"


_WORK_OF_A_BLOCK = 1e9  # weights times tokens: large enough to hide the overhead per call; a block is always computed whole
_MOST_PAIRS = 256
_LOGITS_AT_ONCE = 1 << 24


class Reference:
    """A frozen copy of a policy, called like it, without gradients.

    The weights are copied immediately, since the policy will have changed when a forward pass is first needed.

    Log-probabilities of a task's pairs are computed once per pair and cached for later runs, in blocks of consecutive pairs in
    the task's order, whichever batch needs them: so a value does not depend on the run or batch that needed it first.

    A model that computes in 16 bits rounds a pair differently beside other pairs. Then the rows of a batch are computed together,
    as the policy computes them, so that an unchanged policy equals its reference bit for bit. Only those of batches that recur,
    as in evaluations, are cached.

    cache_dir: the folder for the cache; None: memory only.
    """

    def __init__(self, policy: Policy, *, cache_dir: str | Path | None = None) -> None:
        self._policy = policy.start()
        self._cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self._store: ReferenceStore | None = None
        self._known: WeakKeyDictionary[TokenizedPairs, _Known] = WeakKeyDictionary()
        self._of_rows: WeakKeyDictionary[TokenizedPairs, dict[bytes, Tensor]] = WeakKeyDictionary()
        self._is_trusted: bool | None = None
        self._turn = threading.RLock()  # one forward pass at a time: a draw ahead may call from another thread
        self._moved = False
        self.name = policy.name
        self.pairs_computed = 0
        self.pairs_read = 0

    def beside(self, twin: Policy) -> Reference:
        """This reference, for draws by `twin` in another thread; if an adapter defines the reference, that of twin's model."""
        if self._policy.adapter is None:
            return self
        found = copy.copy(self)
        found._policy = copy.copy(self._policy)
        found._policy.model, found._policy.adapter = twin.model, twin.adapter
        found._known, found._of_rows = WeakKeyDictionary(), WeakKeyDictionary()
        return found

    def share_values(self, other: Reference) -> None:
        """Compute log-probabilities of a task's pairs once for both. other: a reference of the same weights."""
        self._known = other._known

    @property
    def model(self) -> Any:
        """The frozen model."""
        return self._policy.model

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._policy.device

    def fingerprint(self) -> str:
        """A hash of the weights, architecture and tokenizer with which log-probabilities are computed."""
        return self._policy.fingerprint()

    def follow(self, policy: Policy, mix: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Replace each weight by mix(weight, weight of the policy). Drops cached values and stops caching.

        Raises ConfigError for a policy with an adapter, whose reference shares its weights.
        """
        if policy.adapter is not None:
            raise ConfigError(
                "a reference that moves (loss=tr_dpo) has no weights of its own with policy/adapter; train without policy/adapter"
            )
        theirs = dict(policy.model.named_parameters())
        self.load_state_dict({name: mix(mine, theirs[name]) for name, mine in self._policy.model.named_parameters()})

    def state_dict(self) -> dict[str, Tensor] | None:
        """The weights for a checkpoint; None while the reference has not moved, as the run's config then determines it."""
        return {name: weight.detach() for name, weight in self._policy.model.named_parameters()} if self._moved else None

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the weights by those of a moved reference."""
        with torch.no_grad():
            for name, parameter in self._policy.model.named_parameters():
                parameter.copy_(state[name])
        self._moved = True
        self._known.clear()
        self._of_rows.clear()

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS
    ) -> TokenStatistics:
        """Like Policy.token_statistics, for the reference and without a gradient."""
        with torch.no_grad(), self._turn:
            return self._policy.token_statistics(sequences, temperature=temperature, requires=requires)

    def token_logprobs(self, sequences: Sequences, *, temperature: float = 1.0) -> Tensor:
        """Like Policy.token_logprobs, for the reference and without a gradient."""
        return self.token_statistics(sequences, temperature=temperature).token_logprobs

    def logits(self, sequences: Sequences) -> Tensor:
        """Like Policy.logits, for the reference and without a gradient."""
        with torch.no_grad(), self._turn:
            return self._policy.logits(sequences)

    def head_input(self, sequences: Sequences) -> HeadInput:
        """Like Policy.head_input, for the reference and without a gradient."""
        with torch.no_grad(), self._turn:
            return self._policy.head_input(sequences)

    def pair_logprobs(
        self, batch: PairBatch, requires: frozenset[str] = NO_STATISTICS, *, comes_again: bool = False
    ) -> PairLogprobs:
        """Like Policy.pair_logprobs, with only those of `requires` that apply to a reference.

        comes_again: the same rows will be needed again, so their values are worth caching.
        """
        with self._turn:
            mismatched = self._policy.mismatched_logprobs(batch) if "mismatched" in requires else None
        statistics = TokenStatistics(self._pair_values(batch, comes_again=comes_again).to(self.device))
        return pair_logprobs_of(batch, statistics, requires, mismatched=mismatched)

    def _pair_values(self, batch: PairBatch, *, comes_again: bool) -> Tensor:
        """[B, 2, T] log-probabilities of a batch; those of a task's pairs are computed or read by blocks when first needed."""
        if self._moved or not batch.source.recurs:
            return self.token_logprobs(batch.sequences)
        if self._policy.is_coarse:
            return self._values_of_rows(batch) if comes_again else self.token_logprobs(batch.sequences)
        known = self._known.get(batch.source)
        if known is None:
            known = self._known[batch.source] = _Known(
                batch.source, self._policy.dtype, pairs_per_block(self._policy, batch.source)
            )
        missing = [block for block in np.unique(batch.rows // known.pairs_per_block).tolist() if not known.has_block[block]]
        for wait in (False, True):  # blocks that another process is computing come last, as they may be on disk by then
            for block in [block for block in missing if not known.has_block[block]]:
                values = self._block(known.sequences(block), wait=wait)
                if values is not None:
                    known.put(block, values)
        return known.of(batch)

    def _values_of_rows(self, batch: PairBatch) -> Tensor:
        """[B, 2, T] log-probabilities of a batch, computed with the same rows as the policy's."""
        kept = self._of_rows.setdefault(batch.source, {})
        name = batch.rows.tobytes()
        if name not in kept:
            values = self._block(batch.sequences, wait=True)
            assert values is not None
            kept[name] = values
        return unflatten(kept[name], batch.sequences.completion_mask)

    def _block(self, block: Sequences, *, wait: bool) -> Tensor | None:
        """[N] log-probabilities of a block, stored or computed; None if another process computes it (unless wait)."""
        if self._store is None:
            self._store = self._open_store()
        values = self._read(block)
        if values is None:
            with self._store.claim(block, wait=wait) as is_mine:
                if not is_mine:
                    return None
                values = self._read(block)  # another process may have written it meanwhile
                if values is None:
                    values = self._compute(block)
                    self._store.write(block, values)
        return values

    def _read(self, block: Sequences) -> Tensor | None:
        """[N] log-probabilities of a block if the store has them; the first block is also computed, to verify the store."""
        assert self._store is not None
        values = self._store.read(block) if self._is_trusted is not False else None
        if values is None:
            return None
        if self._is_trusted is None:
            again = self._compute(block)
            self._is_trusted = bool((values - again).abs().max() <= TOLERANCE)
            if not self._is_trusted:
                _log.warning(
                    "cached reference log-probabilities in %s belong to another policy; they are computed again and replaced",
                    self._store.folder,
                )
                self._store.write(block, again)
                return again
        self.pairs_read += len(block)
        return values

    def _compute(self, block: Sequences) -> Tensor:
        """[N] log-probabilities of a block in the order of its completion mask."""
        self.pairs_computed += len(block)
        with torch.no_grad(), self._turn:
            return self._policy.token_logprobs(block).cpu()[block.completion_mask]

    def _open_store(self) -> ReferenceStore:
        folder = None if self._cache_dir is None else self._cache_dir / "reference" / self.fingerprint()
        layout = "shared prefix" if self._policy.shared_prefix else "plain"
        autocast = self._policy.forward_settings.autocast
        return ReferenceStore(
            folder, arithmetic_of(self.device, layout=layout, autocast=autocast, onednn=self._policy.multiplies_by_onednn)
        )


def pairs_per_block(policy: Policy, source: TokenizedPairs) -> int:
    """The number of pairs per block: a power of two that depends only on the model's size and the data's mean length."""
    pairs = _WORK_OF_A_BLOCK / (policy.num_parameters * float(source.lengths.mean()))
    return int(2 ** np.floor(np.log2(np.clip(pairs, 1, _MOST_PAIRS))))


class _Known:
    """The log-probabilities of a task's pairs in memory, concatenated in the task's order."""

    def __init__(self, source: TokenizedPairs, dtype: torch.dtype, pairs_per_block: int) -> None:
        lengths = source.sequences.learned_lengths  # [all pairs, 2]
        self._starts = (lengths.reshape(-1).cumsum(0) - lengths.reshape(-1)).reshape(lengths.shape)
        self._values = torch.zeros(int(lengths.sum()), dtype=dtype if dtype == torch.float64 else torch.float32)
        self.pairs_per_block = pairs_per_block
        self._all = source.sequences
        self.has_block = np.zeros(-(-len(source) // pairs_per_block), dtype=bool)

    def sequences(self, block: int) -> Sequences:
        """The pairs of a block."""
        pairs = slice(block * self.pairs_per_block, (block + 1) * self.pairs_per_block)
        return self._all.take(range(*pairs.indices(len(self._all))))

    def put(self, block: int, values: Tensor) -> None:
        """Store [N] log-probabilities of a block in memory."""
        start = int(self._starts[block * self.pairs_per_block, 0])
        self._values[start : start + len(values)] = values
        self.has_block[block] = True

    def of(self, batch: PairBatch) -> Tensor:
        """[B, 2, T], 0 outside of the completion mask."""
        mask = batch.sequences.completion_mask
        places = self._starts[torch.from_numpy(batch.rows)][..., None] + mask.cumsum(dim=-1) - 1
        return unflatten(self._values[places[mask]], mask)


def mixed(reference: Tensor, policy: Tensor, *, policy_share: float) -> Tensor:
    """α π + (1-α) π0 of one parameter, without a gradient. Any shape -> the same, in the reference's dtype."""
    return reference.detach().lerp(policy.detach().to(reference.dtype), policy_share)


@dataclass(frozen=True, kw_only=True)
class MovingReference(PreferenceModifier):
    """TR-DPO: every `every_steps` steps, each weight of the reference becomes a mixture of itself and the policy's weight.

    Gorbatovski et al. 2024, arXiv:2404.09656. Applies to every preference loss with a reference.
    every_steps: steps between two updates of the reference.
    policy_share: α, the policy's share of the mixture; 1 is the paper's hard update, a smaller value the soft update.
    Convention: TRL's defaults are 512 steps and 0.6 (0.9 in older versions).
    """

    formula: ClassVar = mixed
    moves_reference: ClassVar[bool] = True

    every_steps: int = within(at_least=1, whole=True, advice="512 is usual")
    policy_share: float = within(above=0, at_most=1, advice="0.6 is usual, 1 replaces the reference by the policy")

    def due(self, step: int) -> bool:
        """Whether the reference is updated after `step` steps."""
        return step > 0 and step % self.every_steps == 0

    def mix(self, reference: Tensor, policy: Tensor) -> Tensor:
        """The reference's parameter after an update."""
        return mixed(reference, policy, policy_share=self.policy_share)


def vocabulary_kl(policy: Policy, reference: Policy | Reference, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """KL(policy || reference) over the vocabulary and the policy's entropy at each completion token, exact, in nats.

    Both [P, G, T], 0 outside of the completion mask, detached. Computed a few rows at a time to bound memory.
    """
    mask = sequences.completion_mask
    kl, entropy = torch.zeros(mask.shape), torch.zeros(mask.shape)
    for rows in _pieces(sequences.completion_lengths.sum(dim=1).tolist(), _LOGITS_AT_ONCE // policy.vocabulary_size):
        with torch.no_grad():
            ours = torch.log_softmax(policy.logits(sequences[rows]), dim=-1)
            theirs = torch.log_softmax(reference.logits(sequences[rows]).to(ours.device), dim=-1)
            kl[rows] = unflatten((ours.exp() * (ours - theirs)).sum(-1).float().cpu(), mask[rows])
            entropy[rows] = unflatten(-(ours.exp() * ours).sum(-1).float().cpu(), mask[rows])
    return kl, entropy


def _pieces(sizes: list[int], most: int) -> Iterator[slice]:
    """Slices of consecutive items whose sizes add up to at most `most`; a larger item is alone in its slice."""
    start, total = 0, 0
    for item, size in enumerate(sizes):
        if item > start and total + size > most:
            yield slice(start, item)
            start, total = item, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
