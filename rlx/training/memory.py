"""The memory that a run needs, by part, compared with what its device has, and the config keys that lower it.

Activations and logits are measured on a few rows and scaled to the largest micro-batch; the rest is computed from sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from omegaconf import DictConfig

from rlx.algorithm.base import Algorithm, AlgorithmType, Need
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import TrainingError
from rlx.experiment import Experiment, assemble, parts_of
from rlx.policy.memory import PassMemory, cache_bytes_per_token, pass_memory, tensor_bytes
from rlx.policy.products import KERNELS
from rlx.policy.reference import pairs_per_block
from rlx.rollout.transformers import TransformersSampler
from rlx.seeding import Stream
from rlx.training.gradients import micro_batches

SHARE = 0.9  # share of the device's memory that micro_batch=auto may use
AUTO = "auto"
CHECKPOINTING = "activation_checkpointing=true"
MICRO_BATCH = "micro_batch=auto, or half of its rows"
PRECISION = "precision=bfloat16"
ADAPTER = "policy/adapter=lora"
OPTIMIZER = "optimizer=adafactor"
_CHOICE_ELEMENTS = 1 << 24  # elements of logits that sampling, and the KL of an evaluation, process at once
_FEW_PROMPTS = 256  # prompts among which the longest is searched
_OF_PAIR_LOSSES = frozenset({"entropy", "sum_p_squared"})


@dataclass(frozen=True)
class Load:
    """The rows of one update of an algorithm, the longest it may draw, in micro-batch order, and the inputs that it reads.

    source: the pairs that the rows come from, if a reference caches its values of them.
    """

    rows: Sequences
    requires: frozenset[str]
    source: TokenizedPairs | None = None

    @cached_property
    def longest(self) -> Sequences:
        """The longest row."""
        return self.rows[len(self.rows) - 1 :]

    def largest(self, micro_batch: int | None) -> Sequences:
        """The rows of the micro-batch with the most tokens."""
        tokens = self.rows.row_tokens

        def total(part: slice) -> int:
            return sum(tokens[part])

        return self.rows[max(micro_batches(tokens, micro_batch), key=total)]


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run by part. Phases follow each other: the peak is the permanent part plus the largest phase.

    gradients: of an update, counted twice if they are clipped or accumulated over micro-batches. stored: the reference's passes
    over a block of pairs, between the policy's forward and backward. cache: keys and values during sampling. choosing: the
    first pass over the prompts, and logits during sampling and evaluation. kernels: buffers of torch's first matrix products,
    and of oneDNN if it is used. has: the device's memory for the run; None if unknown. micro_batch: rows of the largest
    micro-batch; of_rows: rows of the update. taken: keys of `advice` that the run already uses.
    """

    weights: int
    reference: int
    optimizer: int
    gradients: int
    gradient_copies: int
    activations: int
    logits: int
    stored: int
    cache: int
    choosing: int
    kernels: int
    device: str
    has: int | None
    micro_batch: int
    of_rows: int
    taken: frozenset[str] = frozenset()

    @property
    def stays(self) -> int:
        """The bytes held from the first step to the last."""
        return self.weights + self.reference + self.optimizer + self.kernels

    @property
    def update(self) -> int:
        """The bytes that an update adds at most."""
        added_up = self.gradients if self.micro_batch < self.of_rows else 0
        passes = self.activations + max(self.logits + self.gradients, self.stored)
        return max(added_up + passes, self.gradients * self.gradient_copies)

    @property
    def sampling(self) -> int:
        """The bytes that sampling and evaluation add at most."""
        return self.cache + self.choosing

    @property
    def peak(self) -> int:
        """The largest number of bytes held at one time."""
        return self.stays + max(self.update, self.sampling)

    def parts(self) -> dict[str, int]:
        """Name of a part -> its bytes."""
        return {_NAMES.get(name, name): getattr(self, name) for name in _PARTS}

    def line(self) -> str:
        """One line for the start of a run."""
        parts = sorted(self.parts().items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {size_text(size)}" for name, size in parts[:4] if size)
        has = "" if self.has is None else f" of {size_text(self.has)}"
        short = "" if self.has is None or self.peak <= self.has else f"; TOO MUCH: {'; '.join(self.advice()[:3])}"
        return f"about {size_text(self.peak)}{has} on {self.device} ({shown}){short}"

    def advice(self) -> list[str]:
        """Keys that lower the peak and are not used yet, with the savings of each, largest first."""
        smaller = {
            CHECKPOINTING: replace(self, activations=self.activations // 8),
            MICRO_BATCH: replace(
                self,
                activations=self.activations // 2,
                logits=self.logits // 2,
                micro_batch=max(1, self.micro_batch // 2),
            ),
            PRECISION: replace(self, activations=self.activations // 2),
            ADAPTER: replace(self, gradients=0, optimizer=0, reference=0),
            OPTIMIZER: replace(self, optimizer=0),
            "rollout.batch_tokens, half of it": replace(self, cache=self.cache // 2, choosing=self.choosing // 2),
        }
        saved = {key: self.peak - plan.peak for key, plan in smaller.items() if key not in self.taken}
        ordered = sorted((key for key in saved if saved[key] > 0), key=lambda key: -saved[key])
        return [f"{key} saves about {size_text(saved[key])}" for key in ordered]

    def table(self) -> str:
        """The plan as lines of text."""
        width = max(map(len, self.parts()))
        lines = [f"{name:{width}}  {size_text(size):>10}" for name, size in self.parts().items()]
        lines.append(f"{'peak':{width}}  {size_text(self.peak):>10}  the larger of update and sampling, with what stays")
        if self.has is not None:
            lines.append(f"{'has':{width}}  {size_text(self.has):>10}  {self.device}")
        lines.append(f"{self.micro_batch} of {self.of_rows} rows at once")
        return "\n".join([*lines, *(["lower it with:"] if self.advice() else []), *(f"  {text}" for text in self.advice())])


_PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "logits", "stored", "cache", "choosing", "kernels")
_KERNELS = 48 << 20  # bytes, measured with torch 2.13 on a CPU
_NAMES = {"cache": "key-value cache", "choosing": "sampling", "stored": "reference's passes", "kernels": "torch's kernels"}


def size_text(size: float) -> str:
    """A number of bytes as text with its unit."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


class Planner:
    """Makes memory plans of an assembled run. cfg: its config. The policy is on its device, with its dtype and adapter."""

    def __init__(self, cfg: DictConfig, experiment: Experiment) -> None:
        self._cfg, self._experiment = cfg, experiment
        self._policy = experiment.policy
        self._measure = cache(partial(pass_memory, self._policy))

    @cached_property
    def loads(self) -> list[Load]:
        """The load of each algorithm of the run."""
        return [self._load(algorithm) for algorithm in _algorithms(self._experiment.algorithm)]

    @cached_property
    def rows(self) -> int:
        """The number of rows of the largest update."""
        return max((len(load.rows) for load in self.loads), default=1)

    def plan(self, micro_batch: int | None) -> MemoryPlan:
        """The memory plan with micro-batches of this many rows."""
        trained = tensor_bytes([parameter.detach() for parameter in self._policy.parameters()])
        passes = [self._passes(load, micro_batch) for load in self.loads]
        largest = max((len(load.largest(micro_batch)) for load in self.loads), default=1)
        cache, choosing = self._sampling(max((one.forward for one in passes), default=0.0))
        copies = 2 if self._experiment.algorithm.clipping.max_grad_norm is not None else 1
        return MemoryPlan(
            weights=tensor_bytes([*self._policy.model.parameters(), *self._policy.model.buffers()])
            + trained * self._experiment.sampler.ahead,
            reference=self._reference(),
            optimizer=self._optimizer_bytes(trained),
            gradients=trained,
            gradient_copies=copies,
            activations=sum(one.activations for one in passes),
            logits=max((one.logits for one in passes), default=0),
            stored=max((self._stored(load, one.forward) for load, one in zip(self.loads, passes, strict=True)), default=0),
            cache=cache,
            choosing=choosing,
            kernels=(_KERNELS + KERNELS * self._policy.multiplies_by_onednn) * (self._policy.device.type == "cpu"),
            device=str(self._policy.device),
            has=device_memory(self._policy.device),
            micro_batch=largest,
            of_rows=max(self.rows, largest),
            taken=self._taken(largest),
        )

    def _taken(self, micro_batch: int) -> frozenset[str]:
        """The keys of `MemoryPlan.advice` that this run already uses."""
        policy, optimizer = self._policy, str(self._cfg.optimizer._target_).lower()
        follows = {
            CHECKPOINTING: bool(self._cfg.activation_checkpointing),
            MICRO_BATCH: micro_batch == 1,
            PRECISION: self._cfg.precision == "bfloat16",
            ADAPTER: policy.adapter is not None,
            OPTIMIZER: "adafactor" in optimizer,
        }
        return frozenset(key for key, followed in follows.items() if followed)

    def largest_that_fits(self) -> int:
        """The largest micro-batch, in rows, whose plan takes at most SHARE of the device's memory; at least 1."""
        least, most = 1, self.rows
        while least < most:
            middle = (least + most + 1) // 2
            plan = self.plan(middle)
            if plan.has is None or plan.peak <= SHARE * plan.has:
                least = middle
            else:
                most = middle - 1
        return least

    def _passes(self, load: Load, micro_batch: int | None) -> PassMemory:
        return self._measure(load.requires)(load.longest, load.largest(micro_batch))

    def _load(self, algorithm: Algorithm[Any]) -> Load:
        """The longest rows that the algorithm may draw."""
        values = frozenset({"values"}) if self._policy.value_head is not None else frozenset()
        task, policy = self._experiment.task, self._policy
        if algorithm.reads_pairs:
            source = policy.pair_tokenizer(task.pairs())
            count = min(int(getattr(algorithm, "pairs_per_step", 64)), len(source))
            longest = np.argsort(source.lengths, kind="stable")[len(source) - count :]
            rows = source.sequences.take(longest)
            if algorithm.kind is AlgorithmType.SUPERVISED:
                rows = rows.only(slice(0, 1))
            read: frozenset[str] = getattr(getattr(algorithm, "loss", None), "requires", frozenset())
            names = values | (frozenset({"sum_p_squared"}) if _OF_PAIR_LOSSES & set(read) else frozenset())
            return Load(rows, names, None if algorithm.kind is AlgorithmType.SUPERVISED else source)
        if Need.REWARDS not in algorithm.active_needs:
            return Load(Sequences((np.zeros(1, dtype=np.int64),), ((np.zeros(1, dtype=np.int64),),)), values)
        prompt, new = self._prompt_lengths
        count, group = int(getattr(algorithm, "prompts_per_step", 16)), int(getattr(algorithm, "group_size", 2))
        draw = Stream(0, ("memory",)).numpy()
        tokens = draw.integers(0, policy.vocabulary_size, (count, prompt + group * new))
        prompts = tuple(row[:prompt] for row in tokens)
        groups = tuple(tuple(row[prompt + place * new :][:new] for place in range(group)) for row in tokens)
        return Load(Sequences(prompts, groups), values | {"entropy"})

    @cached_property
    def _prompt_lengths(self) -> tuple[int, int]:
        """The number of tokens of the longest prompt, and of the longest completion after it."""
        task, policy, sampler = self._experiment.task, self._policy, self._experiment.sampler
        prompts = (task.prompts() if "rewards" in task.offers else task.held_out_prompts())[:_FEW_PROMPTS]
        longest = max(map(len, policy.text.encode_prompts([(prompt.text, prompt.tools) for prompt in prompts])), default=1)
        new = sampler.max_new_tokens if sampler.max_new_tokens is not None else task.max_new_tokens or 1
        room = new if policy.max_length is None else max(1, policy.max_length - longest)
        return longest, min(new, room)

    def _reference(self) -> int:
        """The bytes of the frozen copies of the policy."""
        adapter = self._policy.adapter
        if adapter is not None:
            return 0 if adapter.is_fresh else tensor_bytes(list(adapter.state().values()))
        whole = tensor_bytes([*self._policy.model.parameters(), *self._policy.model.buffers()])
        return whole * (1 if self._experiment.algorithm.moving_reference is None else 2)

    def _optimizer_bytes(self, trained: int) -> int:
        """The bytes of the optimiser's state, extrapolated from its state for a small matrix."""
        parameter = torch.nn.Parameter(torch.ones(8, 8))
        parameter.grad = torch.ones_like(parameter)
        optimizer = self._experiment.make_optimizer([parameter])
        optimizer.step()
        kept = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
        share = sum(value.numel() * value.element_size() for value in kept if value.numel() == parameter.numel())
        return round(trained * share / (parameter.numel() * parameter.element_size()))

    def _stored(self, load: Load, forward: float) -> int:
        """The bytes of the reference's pass over a block of pairs, whose values are cached."""
        if load.source is None or self._policy.is_coarse:
            return 0
        block = pairs_per_block(self._policy, load.source)
        return round(forward * min(block, len(load.source)) * float(load.source.lengths.mean()))

    def _sampling(self, forward: float) -> tuple[int, int]:
        """The bytes of the KV cache, and of logits, during sampling and evaluation."""
        evaluation, sampler = self._cfg.evaluation, self._experiment.sampler
        held_out = len(self._experiment.task.held_out_prompts())
        draws = [(min(held_out, evaluation.num_prompts), evaluation.samples_per_prompt)]  # prompts, completions per prompt
        if isinstance(sampler, TransformersSampler):
            draws += [(len(load.rows), load.rows.group_size) for load in self.loads if "entropy" in load.requires]
        prompts, group = max(draws, key=math.prod)
        if prompts * group == 0:
            return 0, 0
        prompt, new = self._prompt_lengths
        prompts, held = sampler.in_process.largest_batch(self._policy, prompts, group, length=prompt, limit=new)
        rows, vocabulary = prompts * group, self._policy.vocabulary_size
        elements = min(rows * vocabulary, _CHOICE_ELEMENTS)
        # logits, log-probabilities, probabilities, and their running sum in float64
        choosing = 4 * rows * vocabulary + (4 + 4 + 8) * elements
        kl = 6 * 4 * min(rows * new * vocabulary, _CHOICE_ELEMENTS)  # of an evaluation, when the KV cache is freed
        kept = 1 if self._experiment.task.interaction is None else 2  # the same amount is kept between turns
        cache = held * cache_bytes_per_token(self._policy) * kept
        return cache, max(choosing, round(forward * prompts * prompt), kl - cache)


def planned(cfg: DictConfig, experiment: Experiment) -> tuple[MemoryPlan | None, str]:
    """The memory plan of a run, and a line of text; with micro_batch=auto, for the largest micro-batch that fits.

    The plan is None if it cannot be measured: a user's algorithm or model may refuse the probe rows.
    """
    planner = Planner(cfg, experiment)
    try:
        plan = planner.plan(planner.largest_that_fits() if cfg.micro_batch == AUTO else cfg.micro_batch)
    except Exception as error:  # any type that user code raises; training does not need the plan, but auto does
        if cfg.micro_batch == AUTO:
            raise
        return None, f"not known ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
    return plan, plan.line()


def plan_text(cfg: DictConfig) -> str:
    """The memory that a run of this config needs, as lines of text, without training or recording anything."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    planner = Planner(cfg, assemble(cfg))
    return planner.plan(planner.largest_that_fits() if cfg.micro_batch == AUTO else cfg.micro_batch).table()


def _algorithms(owner: Any) -> Iterator[Algorithm[Any]]:
    """The algorithms that draw batches: those within a mixture, or the algorithm itself."""
    inner = [one for child in parts_of(owner) for one in _algorithms(child)]
    yield from inner or ([owner] if isinstance(owner, Algorithm) else [])


def device_memory(device: torch.device) -> int | None:
    """Bytes available to this process on the device: free memory plus what the process already holds; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return _free_memory()


def _free_memory() -> int | None:
    """Bytes of main memory available to this process: free memory plus what it already holds."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        own = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        free = (int(lines["MemAvailable"].split()[0]) + int(own["VmRSS"].split()[0])) * 1024
    except (OSError, KeyError, ValueError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return free


def out_of_memory(error: BaseException, plan: MemoryPlan | None) -> TrainingError:
    """The error that says which keys help most. plan: of the run; None if memory ran out before it was made."""
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    if plan is None:
        general = "policy/adapter=lora, policy.dtype=bfloat16 with it, or a smaller policy"
        return TrainingError(f"memory ran out while the policy was loaded ({reason}); what helps: {general}")
    smaller = "; ".join(plan.advice()[:3]) or "a smaller policy"
    return TrainingError(
        f"memory ran out on {plan.device} ({reason}); the run needs about {size_text(plan.peak)}; what helps most: {smaller}"
    )
