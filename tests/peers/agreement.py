"""Do both sides compute the same loss and gradient before the first update? Asked on a policy that has left its reference.

At a policy equal to its reference DPO is log 2 whatever the data, and GRPO without a KL is 0, so there nothing would be compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.peers.side import rlx_overrides, trl_trainer
from tests.peers.workload import Workload, moved, trained

TOLERANCE = 1e-5
_PEFT = "base_model.model."  # before the names of a model's parameters, once peft has wrapped it


@dataclass(frozen=True)
class Agreement:
    """The losses of both sides, and the largest difference of their gradients as a share of the largest gradient."""

    ours: float
    theirs: float
    gradient_difference: float

    @property
    def holds(self) -> bool:
        """Whether the losses agree to 1e-5."""
        return abs(self.ours - self.theirs) <= TOLERANCE and self.gradient_difference <= 1e-3


def compare(workload: Workload, place: Path) -> Agreement:
    """Both sides on one batch, with the same weights."""
    trainer, _ = trl_trainer(workload, place)
    experiment, reference = _ours(workload, place)
    theirs_first = {name.removeprefix(_PEFT): tensor for name, tensor in trainer.model.named_parameters()}
    experiment.policy.model.load_state_dict(theirs_first, strict=False)  # an adapter begins with random matrices
    for model in (trainer.model, experiment.policy.model):
        moved(model, seed=1)
    sides = (_dpo if workload.method == "dpo" else _grpo)(workload, place, trainer, experiment, reference)
    (ours, our_gradients), (theirs, their_gradients) = sides
    largest = max(float(gradient.abs().max()) for gradient in their_gradients)
    pairs = zip(our_gradients, their_gradients, strict=True)
    return Agreement(ours, theirs, max(float((mine - other).abs().max()) for mine, other in pairs) / largest)


def _ours(workload: Workload, place: Path) -> tuple[Any, Any]:
    from rlx.config.compose import compose
    from rlx.experiment import assemble
    from rlx.policy.reference import Reference

    experiment = assemble(compose("train", rlx_overrides(workload, place)))
    return experiment, Reference(experiment.policy)


def _gradient(loss: Tensor, model: Any) -> tuple[float, list[Tensor]]:
    return float(loss.detach()), list(torch.autograd.grad(loss, trained(model)))


def _dpo(workload: Workload, place: Path, trainer: Any, experiment: Any, reference: Any) -> Any:
    from rlx.data.preferences import PairBatch

    rows = list(range(min(workload.batch, workload.pairs)))
    tokenized = experiment.policy.pair_tokenizer(experiment.task.pairs())
    batch = PairBatch.of(tokenized, rows)
    batch = batch.with_weights(preference=experiment.algorithm.loss.weights(batch.chosen_mask))
    ours = experiment.algorithm.compute_loss(experiment.policy, reference, batch).loss
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    theirs = trainer._compute_loss(trainer.model.train(), inputs, False)
    return _gradient(ours, experiment.policy.model), _gradient(theirs, trainer.model)


def _grpo(workload: Workload, place: Path, trainer: Any, experiment: Any, reference: Any) -> Any:
    """TRL samples and scores; both compute the loss of what it sampled, as sampled by the policy before it moved."""
    from rlx.rollout.rollouts import RolloutBatch

    lines = (place / "data.jsonl").read_text().splitlines()[: workload.batch // workload.group_size]
    prompts = [json.loads(line)["prompt"] for line in lines]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # its training loop sets it
    scored = trainer._generate_and_score_completions([{"prompt": p} for p in prompts for _ in range(workload.group_size)])
    sequences = _sequences(scored, workload.group_size)
    sampling = reference.token_logprobs(sequences)  # of the policy before it moved: ratios that are not 1
    scored["old_per_token_logps"] = sampling.flatten(0, 1)
    groups = (len(prompts), workload.group_size)
    rewards = scored["advantages"].reshape(groups)
    batch = RolloutBatch(
        sequences=sequences,
        prompts=tuple(experiment.task.prompts()[: len(prompts)]),
        prompt_keys=tuple(range(len(prompts))),
        texts=tuple(("",) * workload.group_size for _ in prompts),
        sampling_logprobs=sampling,
        temperature=1.0,
        rewards=rewards,
        reward_parts={},
        finished=torch.ones(groups, dtype=torch.bool),
        kept=torch.ones(groups, dtype=torch.bool),
        advantages=rewards,
    )
    algorithm = replace(experiment.algorithm)
    batch = batch.with_values(weights=algorithm.loss.weights(batch.loss_mask))
    ours = algorithm.compute_loss(experiment.policy, reference, batch).loss
    theirs = trainer._compute_loss(trainer.model, scored)
    return _gradient(ours, experiment.policy.model), _gradient(theirs, trainer.model)


def _sequences(scored: Any, group_size: int) -> Any:
    """What TRL sampled, as rlx holds it."""
    from rlx.data.sequences import Sequences

    prompts = [ids[mask.bool()].numpy() for ids, mask in zip(scored["prompt_ids"], scored["prompt_mask"], strict=True)]
    rows = [ids[mask.bool()].numpy() for ids, mask in zip(scored["completion_ids"], scored["completion_mask"], strict=True)]
    starts = range(0, len(rows), group_size)
    return Sequences(
        tuple(prompts[start] for start in starts), tuple(tuple(rows[start : start + group_size]) for start in starts)
    )
