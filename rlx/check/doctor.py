"""Checks this machine and installation: what works, measured, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlx.experiment import set_threads
from rlx.policy.precision import matmul_peak

OK, NOTE, BAD = "ok", "note", "bad"
REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "hydra-core", "omegaconf", "numpy", "scipy", "rich")
EXTRAS = {
    "wandb": "wandb",
    "mlflow": "mlflow",
    "reasoning": "reasoning_gym",
    "math": "math_verify",
    "verifiers": "verifiers",
    "gguf": "gguf",
    "lora": "peft",
    "quantization": "bitsandbytes",
    "parquet": "pyarrow",
    "datasets": "datasets",
    "optuna": "optuna",
    "joblib": "joblib",
    "cluster": "submitit",
    "ray": "ray",
}
ENOUGH_DISK = 2 * 2**30


@dataclass(frozen=True)
class Fact:
    """The result of one examination. mark: ok, note or bad; advice: what to do; empty if nothing."""

    mark: str
    name: str
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fact as a JSON object."""
        return asdict(self)


def examine(*, threads: int | None = None) -> Iterator[Fact]:
    """Yield the results of all examinations, the cheap ones first."""
    set_threads(threads)
    yield python_version()
    yield packages()
    yield extras()
    yield cpu()
    peaks = {name: matmul_peak(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    yield best_dtype(peaks)
    yield gpu()
    yield disk(Path.cwd())
    yield end_to_end()


def python_version() -> Fact:
    """Examine the version of Python and the platform."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Fact(OK if supported else BAD, "python", found, "" if supported else "rlx needs Python 3.11 to 3.13")


def packages() -> Fact:
    """Examine the versions of the required packages; pre-releases of Hydra do not work."""
    versions: dict[str, str] = {}
    for name in REQUIRED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return Fact(BAD, "packages", f"{name} is missing", "install rlx again")
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if not versions["hydra-core"].startswith("1.3."):
        return Fact(BAD, "packages", found, "rlx needs hydra-core 1.3: pip install 'hydra-core>=1.3.8,<1.4'")
    return Fact(OK, "packages", found)


def extras() -> Fact:
    """Examine which optional packages are installed."""
    there = [name for name, module in EXTRAS.items() if importlib.util.find_spec(module) is not None]
    missing = [name for name in EXTRAS if name not in there]
    advice = f"pip install 'rlx[{','.join(missing)}]' brings the others" if missing else ""
    return Fact(OK, "extras", ", ".join(there) or "none", advice)


def cpu() -> Fact:
    """Examine the threads and the vector instructions of the processor."""
    capability = torch.backends.cpu.get_cpu_capability()
    found = f"{torch.get_num_threads()} threads of torch, {capability}"
    slow = capability in ("DEFAULT", "NO AVX")
    return Fact(NOTE if slow else OK, "cpu", found, "no vector instructions: training will be slow" if slow else "")


def best_dtype(peaks: dict[str, float]) -> Fact:
    """Report the dtype that this CPU multiplies fastest. peaks: dtype -> floating-point operations a second."""
    found = ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in peaks.items())
    better = max(peaks, key=lambda name: peaks[name] * (1.3 if name == "float32" else 1.0))
    weights = "; rlx keeps weights in float32, for half precision loses small updates" if better != "float32" else ""
    return Fact(OK, "matmul", f"{found}: {better} is the dtype for this CPU{weights}")


def gpu() -> Fact:
    """Report the GPU that torch sees."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Fact(OK, "gpu", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return Fact(OK, "gpu", "none; device=auto takes the CPU")


def disk(place: Path) -> Fact:
    """Examine whether the disk has room for checkpoints."""
    free = shutil.disk_usage(place).free
    enough = free >= ENOUGH_DISK
    advice = "" if enough else "checkpoints may not fit: set checkpoint.every=null and output_dir to a larger disk"
    return Fact(OK if enough else NOTE, "disk", f"{free / 2**30:.1f} GiB free in {place}", advice)


def end_to_end() -> Fact:
    """Train a policy of a few thousand weights for two steps, in a temporary folder.

    Raises Stopped if a signal ended the run.
    """
    import contextlib
    import io

    import rlx
    from rlx.training.stop import Stopped

    small = "policy=tiny_untrained policy.hidden_size=16 policy.intermediate_size=24 policy.num_layers=1 policy.num_heads=2"
    sizes = "task.max_operand=20 algorithm.pairs_per_step=8 num_steps=2 evaluation.num_prompts=8 evaluation.num_pairs=8 logger=[]"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        places = [f"output_dir={folder}/outputs", f"cache_dir={folder}/cache"]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                result = rlx.train(["algorithm=custom_dpo", *small.split(), *sizes.split(), *places])
        except Stopped:  # the run caught the signal that was meant for the command
            raise
        except Exception as error:  # any error is the finding
            return Fact(BAD, "a short run", f"{type(error).__name__}: {error}", "fix this first")
    score = result.performance_metrics["eval/score"]
    return Fact(OK, "a short run", f"2 steps, evaluated and recorded in {time.monotonic() - start:.1f} s (score {score:.2f})")
