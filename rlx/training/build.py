"""Builds the training loop from the objects that the config describes, and splits models over several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from rlx.errors import ConfigError
from rlx.experiment import Experiment, torch_device
from rlx.loss.state import LossStates
from rlx.optimizer.step import Optimizer, ParameterGroups
from rlx.parallel.ranks import ALONE, Ranks
from rlx.policy.reference import Reference
from rlx.record.recorder import Recorder
from rlx.training.ahead import DrawAhead
from rlx.training.evaluate import Evaluator
from rlx.training.loop import Loop, ProgressView, TrainingPlan
from rlx.training.memory import AUTO
from rlx.training.stop import Stop


def build_loop(
    cfg: DictConfig, experiment: Experiment, recorder: Recorder, view: ProgressView, stop: Stop, ranks: Ranks = ALONE
) -> Loop:
    """The loop before its first step. The reference is a copy of the current policy, with several ranks of rank 0's."""
    policy, task, sampler = experiment.policy, experiment.task, experiment.sampler
    if ranks.world > 1:
        from rlx.rollout.split import SplitSampler, split_task

        ranks.broadcast(policy.tensors())
        task, sampler = split_task(task, ranks), SplitSampler.of(sampler, ranks)
    is_sharded = ranks.world > 1 and cfg.parallel.mode == "sharded"
    if is_sharded:
        policy.to("cpu")  # each block moves to its device when sharded, so that no device ever holds two whole models
    cache_dir = None if is_sharded else cfg.cache_dir  # a rank waiting for another's file could not join forward passes
    start = Reference(policy, cache_dir=cache_dir)  # the fixed reference of evaluations
    moves = experiment.algorithm.moving_reference is not None
    policy.require_trainable(with_moving_reference=moves, merges=cfg.export.merge)
    reference = Reference(policy, cache_dir=cache_dir) if moves else start
    make_optimizer = experiment.make_optimizer
    if is_sharded:
        make_optimizer = ranks.together("the split of the policy", lambda: _split(cfg, experiment, (start, reference), ranks))
    micro_batch = None if cfg.micro_batch == AUTO else cfg.micro_batch  # auto: see rlx.training.memory
    return Loop(
        plan=TrainingPlan(
            seed=cfg.seed,
            num_steps=cfg.num_steps,
            eval_every=cfg.eval_every,
            micro_batch=micro_batch,
            halves=cfg.micro_batch == AUTO,
            stop_at_score=cfg.stop_at_score,
            max_seconds=cfg.max_seconds,
            checkpoint_every=cfg.checkpoint.every,
            keep_last=cfg.checkpoint.keep_last,
            keep_best=cfg.checkpoint.keep_best,
        ),
        task=task,
        algorithm=experiment.algorithm,
        policy=policy,
        reference=reference,
        sampler=sampler,
        optimizer=Optimizer(
            make_optimizer,
            policy.parameters(),
            schedule=experiment.schedule,
            num_steps=cfg.num_steps,
            parts=policy.parts(),
            groups=ParameterGroups(**cfg.parameter_groups),
        ),
        evaluator=Evaluator(task=task, reference=start, sampler=sampler, micro_batch=micro_batch, ranks=ranks, **cfg.evaluation),
        recorder=recorder,
        view=view,
        stop=stop,
        ranks=ranks,
        states=LossStates.of(experiment.algorithm),
        ahead=DrawAhead.of(experiment.algorithm, policy, start, sampler),
    )


def _split(cfg: DictConfig, experiment: Experiment, references: Sequence[Reference], ranks: Ranks) -> Any:
    """Shard the models over the ranks and return the optimiser factory. Raises ConfigError for unsupported combinations."""
    from rlx.parallel.sharded import fit_for_parts, shard

    policy = experiment.policy
    if experiment.sampler.ahead:
        raise ConfigError(
            "rollout.ahead needs a copy of the policy, but with parallel=sharded no rank holds all of it; leave it out"
        )
    if policy.is_quantized:
        raise ConfigError("weights in 4 bits cannot be split over ranks; use parallel=replicated")
    if policy.adapter is not None and cfg.export.merge:
        raise ConfigError(
            "export.merge=true needs a whole model, but with parallel=sharded no rank holds one; leave out export.merge"
        )
    make = fit_for_parts(experiment.make_optimizer, ranks)
    heads = [] if policy.value_head is None else [policy.value_head]
    shard([policy.model, *heads, *(reference.model for reference in references)], ranks, device=torch_device(cfg.device))
    return make
