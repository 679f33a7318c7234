"""A whole study in rlx and in TRL, end to end: five weights of DPO beside GRPO, with some seeds each, on the same model and data.

rlx trains its hybrid by `rlx -m`. TRL has no hybrid: each of its jobs makes as many steps of DPO and then of GRPO on one model,
under Hydra's basic launcher, which is what the same steps cost there. Where the weight of DPO is 0, neither side makes its steps.
The seconds are those of the whole command, start and records included.

`make peers PEERS=study`, or `python -m tests.peers.study --steps 10 --seeds 5 --rounds 2`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.peers.workload import Workload, write

WEIGHTS = "0,0.25,0.5,0.75,1"
PAIRS, COMPLETIONS, GROUP, WORDS = 16, 64, 8, 16


def workload(method: str, steps: int) -> Workload:
    """The steps of one method in one job."""
    batch = PAIRS if method == "dpo" else COMPLETIONS
    return Workload(method, "1M", WORDS, WORDS, batch, GROUP, updates=steps, rounds=1, threads=os.cpu_count() or 1)


def rlx_command(place: Path, *, steps: int, seeds: int) -> list[str]:
    """The study as one command of rlx."""
    dpo = workload("dpo", steps)
    model = [*("policy=pretrained", f"policy.path={place / 'model'}", f"optimizer.lr={dpo.learning_rate}")]
    data = [
        "task=rewarded_preferences",
        f"task.path={place / 'data.jsonl'}",
        "task.held_out=1e-12",
        f"task.max_new_tokens={WORDS}",
    ]
    sizes = [f"algorithm.dpo.pairs_per_step={PAIRS}", f"algorithm.grpo.prompts_per_step={COMPLETIONS // GROUP}"]
    return [
        *(sys.executable, "-m", "rlx", "-m", "algorithm=hybrid", f"algorithm.dpo_weight={WEIGHTS}", f"seed=range(0,{seeds})"),
        *(f"num_steps={steps}", "task/reward=[tests.peers.workload.even_words]", f"algorithm.grpo.group_size={GROUP}"),
        *("logger=[]", "eval_every=null", "checkpoint.every=null", "evaluation.num_prompts=1", "evaluation.num_pairs=1"),
        *(*model, *data, *sizes, f"output_dir={place / 'outputs'}", f"cache_dir={place / 'cache'}"),
    ]


def trl_command(place: Path, *, steps: int, seeds: int) -> list[str]:
    """The study as one command of Hydra, whose task is `trl_job`."""
    jobs = [f"+weight={WEIGHTS}", f"+seed=range(0,{seeds})", f"+steps={steps}", f"+place={place}"]
    return [sys.executable, "-m", "tests.peers.study", "trl", "-m", *jobs, f"hydra.sweep.dir={place / 'trl'}"]


def trl_jobs() -> None:
    """Every job of the study in TRL, one after the other in this process, as Hydra's basic launcher runs them."""
    import hydra
    from omegaconf import DictConfig

    @hydra.main(version_base="1.3")
    def job(cfg: DictConfig) -> None:
        trl_job(Path(cfg.place), weight=cfg.weight, seed=cfg.seed, steps=cfg.steps)

    job()


def trl_job(place: Path, *, weight: float, seed: int, steps: int) -> None:
    """Steps of DPO, then of GRPO, on one model; activations are not recomputed, the reference's figures are made beforehand."""
    from tests.peers.side import trl_trainer

    model = None
    if weight:
        trainer, _ = trl_trainer(workload("dpo", steps), place, side="trl_precomputed", seed=seed, epochs=1)
        trainer.train()
        model = trainer.model
    trainer, _ = trl_trainer(workload("grpo", steps), place, side="trl", seed=seed, epochs=1, model=model)
    trainer.train()
    if trainer.state.global_step != steps:
        raise SystemExit(f"TRL made {trainer.state.global_step} steps in place of {steps}")


def seconds_of(command: Sequence[str], log: Path) -> float:
    """How long a command takes. Raises SystemExit with its last lines where it fails."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}
    began = time.perf_counter()
    with log.open("w") as said:
        done = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, env=environment, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    return took


def main(arguments: Sequence[str]) -> int:
    """Measure both sides in turn and print their seconds and the ratio."""
    if arguments[:1] == ["trl"]:
        sys.argv = [sys.argv[0], *arguments[1:]]
        trl_jobs()
        return 0
    chosen = parsed(arguments)
    took: dict[str, list[float]] = {"rlx": [], "trl": []}
    for number in range(chosen.rounds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write(workload("dpo", chosen.steps), place)
            commands = {
                "rlx": rlx_command(place, steps=chosen.steps, seeds=chosen.seeds),
                "trl": trl_command(place, steps=chosen.steps, seeds=chosen.seeds),
            }
            for side in sorted(commands, reverse=number % 2 == 1):
                took[side].append(seconds_of(commands[side], place / f"{side}.log"))
    print(line(took, jobs=len(WEIGHTS.split(",")) * chosen.seeds, steps=chosen.steps))
    return 0


def line(took: Mapping[str, Sequence[float]], *, jobs: int, steps: int) -> str:
    """The seconds of both sides, and how many times faster rlx is."""
    ratios = [theirs / ours for ours, theirs in zip(took["rlx"], took["trl"], strict=True)]
    return (
        f"{jobs} jobs of {steps} steps: rlx {statistics.median(took['rlx']):.0f} s, TRL {statistics.median(took['trl']):.0f} s, "
        f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] times as fast"
    )


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 10), ("seeds", 5), ("rounds", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args(arguments)
    for name, value in vars(chosen).items():
        if value < 1:
            parser.error(f"--{name} is {value}; it is at least 1")
    return chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
