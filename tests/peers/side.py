"""One side of the comparison, in a process of its own: `python -m tests.peers.side SIDE DIRECTORY`.

SIDE is one of RLX_SIDES or TRL_SIDES.

Everything that is not training (start-up, loading, reading the data into tokens) lies before the first round.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.peers.rounds import Gate
from tests.peers.workload import Workload, read

RLX_SIDES: dict[str, tuple[str, ...]] = {"rlx": (), "rlx_recomputing": ("activation_checkpointing=true",)}
# What TRL is told of speed: as fast as it goes here, its own defaults in float32, and its own defaults to the letter.
_PLAIN = {"bf16": False, "gradient_checkpointing": False}
TRL_SIDES: dict[str, dict[str, Any]] = {
    "trl": _PLAIN,
    "trl_precomputed": {**_PLAIN, "precompute_ref_log_probs": True},
    "trl_default": {"bf16": False},
    "trl_bfloat16": {},
}


def rlx_overrides(workload: Workload, place: Path, *, side: str = "rlx") -> list[str]:
    """The command line of the same training in rlx, one of RLX_SIDES."""
    adapter = ["policy/adapter=lora", f"policy.adapter.rank={workload.rank}", f"policy.adapter.alpha={2 * workload.rank}"]
    shared = [
        *("policy=pretrained", f"policy.path={place / 'model'}", f"task.path={place / 'data.jsonl'}", "task.held_out=1e-12"),
        *("logger=[]", "eval_every=null", "checkpoint.every=null", "evaluation.num_prompts=1", "evaluation.num_pairs=1"),
        *(f"output_dir={place / 'outputs'}", f"cache_dir={place / 'cache'}", f"optimizer.lr={workload.learning_rate}"),
        *(f"threads={workload.threads}", f"num_steps={workload.rounds * workload.updates + 1}"),
        *(adapter if workload.rank else ()),
        *RLX_SIDES[side],
    ]
    if workload.method == "dpo":
        own = ["algorithm=dpo", "task=preference_file", f"loss.beta={workload.beta}"]
        return [*own, *shared, f"algorithm.pairs_per_step={workload.batch}"]
    prompts = workload.batch // workload.group_size
    own = ["algorithm=grpo", "algorithm.updates_per_batch=1", f"algorithm.prompts_per_step={prompts}"]
    reward = ["task=prompt_file", "task/reward=[tests.peers.workload.even_words]", "task.answer_key=null"]
    lengths = [f"algorithm.group_size={workload.group_size}", f"task.max_new_tokens={workload.completion_words}"]
    return [*own, *reward, *shared, *lengths]


def run_rlx(workload: Workload, place: Path, *, side: str) -> None:
    """`rlx train`, whose view is the gate."""
    from unittest.mock import patch

    import rlx
    from rlx.report.terminal import TrainView

    gate = Gate()

    class Rounds(TrainView):
        def start(self, facts: Mapping[str, Any], *, num_steps: int | None = None, step: int = 0) -> None:
            print(json.dumps(dict(facts), default=str))

        def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
            if step == 0:
                gate.wait()

        def step(self, step: int, metrics: Mapping[str, float]) -> None:
            if step % workload.updates == 0:
                gate.report()
                gate.wait()

    with patch("rlx.report.terminal.TrainView", Rounds):
        rlx.train(rlx_overrides(workload, place, side=side))


def run_trl(workload: Workload, place: Path, *, side: str) -> None:
    """TRL's trainer, one of TRL_SIDES: fused AdamW, nothing logged or saved."""
    from transformers import TrainerCallback

    gate = Gate()

    class Rounds(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % workload.updates == 0:
                gate.report(reference=reference)
                gate.wait()

    trainer, reference = trl_trainer(workload, place, side=side)
    trainer.add_callback(Rounds())
    gate.wait()
    trainer.train()


def trl_trainer(
    workload: Workload, place: Path, *, side: str = "trl", seed: int = 0, epochs: int | None = None, model: Any = None
) -> tuple[Any, float]:
    """The trainer, and the seconds that it spent on the reference while it was made.

    epochs: how often it goes through the data; None: once a round and once more. model: to train; None: the one on disk.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

    shared: dict[str, Any] = {
        "output_dir": str(place / "trl"),
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "optim": "adamw_torch_fused",
        "learning_rate": workload.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "per_device_train_batch_size": workload.batch,
        "num_train_epochs": epochs or workload.rounds + 1,
        "seed": seed,
        **({"model_init_kwargs": {"dtype": "float32"}} if model is None else {}),
        **TRL_SIDES[side],
    }
    rows = [json.loads(line) for line in (place / "data.jsonl").read_text().splitlines()][: workload.pairs]
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    given = str(place / "model") if model is None else model
    made_of: dict[str, Any] = {"model": given, "processing_class": tokenizer, "peft_config": _adapter(workload)}
    if workload.method == "grpo":
        own = {
            "num_generations": workload.group_size,
            "max_completion_length": workload.completion_words,
            "beta": 0.0,
            "loss_type": "grpo",
        }
        dataset = Dataset.from_list([{"prompt": row["prompt"]} for row in rows])

        def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
            from tests.peers.workload import even_words

            return [even_words(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

        arguments = GRPOConfig(**shared, **own, temperature=1.0)
        return GRPOTrainer(args=arguments, reward_funcs=reward, train_dataset=dataset, **made_of), 0.0
    spent = 0.0

    class Timed(DPOTrainer):
        def _precompute_ref_logps(self, *given: Any, **named: Any) -> Any:
            nonlocal spent
            began = time.perf_counter()
            made = super()._precompute_ref_logps(*given, **named)
            spent += time.perf_counter() - began
            return made

    arguments = DPOConfig(**shared, beta=workload.beta, max_length=None)
    trainer = Timed(args=arguments, train_dataset=Dataset.from_list(rows), **made_of)
    return trainer, spent


def _adapter(workload: Workload) -> Any:
    """What peft is told of the adapter; None where all weights are trained."""
    if not workload.rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=workload.rank, lora_alpha=2 * workload.rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def main(side: str, place: Path) -> None:
    """Train round by round, as the other end asks."""
    workload = read(place)
    if side in RLX_SIDES:
        run_rlx(workload, place, side=side)
        return
    import torch

    torch.set_num_threads(workload.threads)
    run_trl(workload, place, side=side)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
