"""Finds the nearest valid name for a wrong one, among full paths of keys and the names that other tools use."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

# Names from other tools: last component -> rlx's key, or the words to write if a choice is meant.
FOREIGN: dict[str, str] = {
    "reference_policy_kl_penalty": "loss.beta",
    "val_period": "eval_every",
    "eval_steps": "eval_every",
    "eval_interval": "eval_every",
    "num_prompts_per_step": "algorithm.prompts_per_step",
    "num_generations_per_prompt": "algorithm.group_size",
    "num_generations": "algorithm.group_size",
    "group_size_per_prompt": "algorithm.group_size",
    "normalize_rewards": "algorithm.advantage",
    "use_leave_one_out_baseline": "algorithm.advantage",
    "max_num_steps": "num_steps",
    "max_steps": "num_steps",
    "max_num_epochs": "num_steps",
    "num_train_epochs": "num_steps",
    "num_epochs": "num_steps",
    "total_steps": "num_steps",
    "epochs": "num_steps",
    "steps": "num_steps",
    "val_at_start": "eval_every",
    "val_at_end": "eval_every",
    "val_micro_batch_size": "micro_batch",
    "val_batch_size": "evaluation.num_prompts",
    "reward_threshold": "algorithm.reward_threshold",
    "val_global_batch_size": "evaluation.num_prompts",
    "val_batches": "evaluation.num_prompts",
    "max_val_samples": "evaluation.num_prompts",
    "val_num_generations_per_prompt": "evaluation.samples_per_prompt",
    "num_val_samples_to_print": "evaluation.num_shown",
    "train_global_batch_size": "algorithm.pairs_per_step",
    "per_device_train_batch_size": "algorithm.pairs_per_step",
    "train_micro_batch_size": "micro_batch",
    "per_device_eval_batch_size": "micro_batch",
    "gradient_accumulation_steps": "micro_batch",
    "micro_batch_size": "micro_batch",
    "batch_size": "algorithm.pairs_per_step",
    "learning_rate": "optimizer.lr",
    "lr_scheduler_type": "scheduler",
    "lr_scheduler": "scheduler",
    "warmup_ratio": "scheduler.warmup_steps",
    "max_grad_norm": "algorithm.max_grad_norm",
    "loss_type": "loss",
    "loss_fn": "loss",
    "kl_coef": "loss.beta",
    "ratio_clip_min": "loss.clip_low",
    "ratio_clip_max": "loss.clip_high",
    "cliprange": "loss.clip_low",
    "epsilon": "loss.clip_low",
    "epsilon_high": "loss.clip_high",
    "num_iterations": "algorithm.updates_per_batch",
    "max_completion_length": "task.max_new_tokens",
    "max_response_length": "task.max_new_tokens",
    "max_length": "policy.max_length",
    "max_total_sequence_length": "policy.max_length",
    "max_prompt_length": "policy.max_length",
    "log_dir": "output_dir",
    "checkpoint_dir": "output_dir",
    "results_dir": "output_dir",
    "wandb_enabled": "logger",
    "tensorboard_enabled": "logger",
    "mlflow_enabled": "logger",
    "report_to": "logger",
    "save_period": "checkpoint.every",
    "save_steps": "checkpoint.every",
    "keep_top_k": "checkpoint.keep_last",
    "save_total_limit": "checkpoint.keep_last",
    "model_name": "policy.path",
    "model_name_or_path": "policy.path",
    "model": "policy",
    "dataset_name": "task",
    "dataset": "task",
    "data": "task",
    "data_path": "task.path",
    "env": "task",
    "environment": "task",
    "resume_from_checkpoint": "resume",
    "random_seed": "seed",
    "stop_at_validation_metric_threshold": "stop_at_score",
    "custom_regularization": "algorithm.regularization_weight",
    "custom_value_loss": "algorithm.value_loss_weight",
    "gradient_clipping": "algorithm.max_grad_norm",
    "gradient_scaling": "algorithm.gradient_scale",
    "gradient_scale_factor": "algorithm.gradient_scale",
    "dpo_weight": "algorithm.dpo_weight",
    "grpo_weight": "algorithm.grpo_weight",
    "algorithm_name": "algorithm",
    "generation": "rollout",
    "use_peft": "policy/adapter=lora",
    "peft_config": "policy/adapter=lora",
    "lora_r": "policy/adapter=lora policy.adapter.rank=16",
    "lora_rank": "policy/adapter=lora policy.adapter.rank=16",
    "lora_alpha": "policy/adapter=lora policy.adapter.alpha=32",
    "target_modules": "policy/adapter=lora policy.adapter.targets=[q_proj,v_proj]",
    "lora_target_modules": "policy/adapter=lora policy.adapter.targets=[q_proj,v_proj]",
    "load_in_4bit": "policy/adapter=lora policy=pretrained policy.quantization=nf4",
    "bf16": "precision=bfloat16",
    "torch_dtype": "precision=bfloat16",
    "gradient_checkpointing": "activation_checkpointing=true",
    "num_gpus": "ranks=2",
    "num_processes": "ranks=2",
    "nproc_per_node": "ranks=2",
    "world_size": "ranks=2",
    "fsdp": "ranks=2 parallel=sharded",
    "deepspeed": "ranks=2 parallel=sharded",
    "use_vllm": "algorithm=custom_grpo rollout=vllm",
    "vllm_mode": "algorithm=custom_grpo rollout=vllm",
    "vllm_server_base_url": "algorithm=custom_grpo rollout=server rollout.url=http://localhost:8000/v1",
    "vllm_gpu_memory_utilization": "algorithm=custom_grpo rollout=vllm rollout.memory=0.5",
    "reward_funcs": "algorithm=custom_grpo task/reward=[exact_match]",
    "scale_rewards": "algorithm=custom_grpo algorithm/advantage=group_centered",
    "mask_truncated_completions": "algorithm=custom_grpo algorithm.filter_truncated=true",
    "label_smoothing": "loss=dpo_conservative loss.label_smoothing=0.1",
    "rpo_alpha": "algorithm=custom_dpo algorithm.sft_loss_weight=1",
    "tools": "task=tool_file task/tool=[calculator]",
}


def similarity(left: str, right: str) -> float:
    """The similarity of two words, 0 to 1; transposed letters (tyni, tiny) count as similar."""
    left, right = left.lower(), right.lower()
    ratio = SequenceMatcher(None, left, right).ratio()
    return max(ratio, 0.8) if sorted(left) == sorted(right) else ratio


def _agreement(left: str, right: str) -> int:
    """The number of letters in the common beginning of two words."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def nearest(word: str, options: Iterable[str], *, threshold: float = 0.6) -> str | None:
    """The option most similar to `word`, if one is similar or `word` extends it; among several, the one that begins like it."""
    scored = [(similarity(word, option), _agreement(word, option), option) for option in options]
    best = max(scored, default=(0.0, 0, ""))
    if best[0] >= threshold:
        return best[2]
    return max(
        (option for _, _, option in scored if option and word.startswith((f"{option}_", f"{option}-"))), key=len, default=None
    )


def nearest_path(path: str, paths: Iterable[str]) -> str | None:
    """The dotted path that `path` most likely means; its last component counts three times as much as the rest."""
    head, _, leaf = path.rpartition(".")
    best, best_score = None, 0.0
    for candidate in paths:
        candidate_head, _, candidate_leaf = candidate.rpartition(".")
        leaf_score = similarity(leaf, candidate_leaf)
        if leaf_score < (0.65 if not head or candidate_head == head else 0.9):  # at another place, only a nearly equal name
            continue
        score = 3 * leaf_score + similarity(head, candidate_head)
        if score > best_score:
            best, best_score = candidate, score
    return best


def right_name(path: str, paths: Iterable[str]) -> str | None:
    """rlx's name for an unknown key, or None."""
    known = [candidate for candidate in paths if candidate != path]
    leaf = path.rpartition(".")[2]
    exact = [candidate for candidate in known if candidate.rpartition(".")[2] == leaf]
    if exact:
        return nearest_path(path, exact)
    foreign = FOREIGN.get(leaf)
    if foreign is not None:
        same_leaf = [candidate for candidate in known if candidate.rpartition(".")[2] == foreign.rpartition(".")[2]]
        return foreign if foreign in known or not same_leaf else nearest_path(foreign, same_leaf)
    return nearest_path(path, known)


def did_you_mean(name: str | None) -> str:
    """The end of a message, `; did you mean NAME?`; empty without a name."""
    return "" if name is None else f"; did you mean {name}?"
