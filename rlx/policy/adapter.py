"""Low-rank adapters (LoRA): the weights of a model stay frozen, and small matrices beside its linear layers are trained.

Hu et al. 2022, arXiv:2106.09685; rank-stabilised scaling: arXiv:2312.03732; DoRA: arXiv:2402.09353. The layers are those of peft,
and an adapter on disk is a peft directory with one more file, which names the base model by its fingerprint.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlx.errors import ConfigError, RlxError
from rlx.fields import Ranged, count, within
from rlx.policy.products import is_linear
from rlx.seeding import Stream

MOVED = 3e-3  # standard deviation by which `moved_adapters` moves B
ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "rlx_base.json"
ALL_LINEAR = "all-linear"
# Settings of a peft adapter that affect what it computes, but have no field in Lora.
_UNREAD = (
    *("alpha_pattern", "rank_pattern", "layer_replication", "target_parameters", "trainable_token_indices", "modules_to_save"),
    *("bias", "lora_bias", "use_qalora", "alora_invocation_tokens", "arrow_config", "megatron_config"),
)
_TRAINED, _START = "default", "start"  # peft's names for the adapter that is trained, and for the one that a run started from
_PREFIX = "base_model.model."  # prefix of tensor names in peft's files


@dataclass(frozen=True, kw_only=True)
class Lora(Ranged):
    """A low-rank adapter: y = W x + (alpha / rank) B A x, with B = 0 initially.

    rank: of the matrices A and B. alpha: scale of their product. targets: layer names, or all-linear for all except the head.
    rslora: scale alpha / sqrt(rank). dora: direction and magnitude of the weights are trained separately.
    seed: of the initial A; it is not the run's seed.
    """

    rank: int = within(at_least=1, whole=True, advice="8 to 64 are usual")
    alpha: float = within(above=0, advice="twice the rank is usual")
    targets: str | Sequence[str] = ALL_LINEAR
    rslora: bool = False
    dora: bool = False
    seed: int = count(at_least=0, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))

    def injected(self, model: Any, *, base: BaseModel) -> AttachedAdapter:
        """Insert a fresh adapter into the linear layers of `model` and freeze the model's own weights.

        Raises ConfigError if peft is not installed, or the model has no layer of these names.
        """
        peft = _peft()
        given = self.targets if isinstance(self.targets, str) else list(self.targets)
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=given,
            lora_dropout=0.0,
            use_rslora=self.rslora,
            use_dora=self.dora,
            task_type="CAUSAL_LM",
            base_model_name_or_path=base.name,
        )
        try:
            with torch.random.fork_rng(devices=[]):  # peft draws A from torch's global generator; it is redrawn below
                peft.inject_adapter_in_model(config, model, adapter_name=_TRAINED)
            attached = AttachedAdapter(model, self, base)
            generator = Stream(self.seed, ("policy", "adapter")).torch()
            for layer in attached.layers():
                nn.init.kaiming_uniform_(layer.lora_A[_TRAINED].weight.data, a=math.sqrt(5), generator=generator)
        except RlxError:
            raise
        except Exception as error:  # peft raises various types for unknown or non-linear layers
            said = (str(error).strip().splitlines() or [""])[0]
            names = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
            raise ConfigError(
                f"policy.adapter.targets={self.targets}: {type(model).__name__} has no such layers; its linear layers are "
                f"{', '.join(names)} (peft says {type(error).__name__}: {said:.160})"
            ) from error
        peft.functional.cast_adapter_dtype(model, _TRAINED)  # float32, even if the base is in half precision
        for layer in attached.layers():
            _compute_in_place(layer)
        return attached


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter belongs to. loader: a policy loader of rlx; arguments: its keyword arguments."""

    name: str
    fingerprint: str
    loader: str
    arguments: Mapping[str, Any]


class AttachedAdapter:
    """The adapter in the layers of a model.

    lora: its hyperparameters. base: the model without it. is_fresh: it has no weights from earlier training.
    trained: the names of the model's parameters that are trained.
    """

    def __init__(self, model: Any, lora: Lora, base: BaseModel) -> None:
        self.model, self.lora, self.base = model, lora, base
        self.trained = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        self.is_fresh = True
        self.start_fingerprint = base.fingerprint
        self._has_start = False

    def layers(self) -> list[Any]:
        """The layers of peft, in the order of the model."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]

    def of(self, model: Any) -> AttachedAdapter:
        """The same adapter in a copy of the model."""
        twin = copy.copy(self)
        twin.model = model
        return twin

    def state(self) -> dict[str, Tensor]:
        """Name -> tensor of the trained adapter, under the names of peft's files."""
        found = _peft().get_peft_model_state_dict(self.model, adapter_name=_TRAINED, save_embedding_layers=False)
        return {_PREFIX + name: tensor.detach() for name, tensor in found.items()}

    def load(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Set the weights of the trained adapter. Raises ConfigError if names or shapes differ. source: for the message."""
        own = self.state()
        differing = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
        if differing:
            name = differing[0]
            shapes = [tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (own, state)]
            raise ConfigError(
                f"the adapter in {source} does not fit this one of rank {self.lora.rank}: {name.removeprefix(_PREFIX)} is "
                f"{shapes[1]} there and {shapes[0]} here; give policy.adapter the rank and targets it was trained with"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def freeze_start(self) -> None:
        """Make `start` use the current weights: no adapter if it is fresh, else a frozen copy of it."""
        if self.is_fresh or self._has_start:
            return
        self.start_fingerprint = self.fingerprint()
        peft = _peft()
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)  # two adapters are intended
            peft.inject_adapter_in_model(self.model.peft_config[_TRAINED], self.model, adapter_name=_START)
        peft.functional.cast_adapter_dtype(self.model, _START)
        trained = self.state()
        start = peft.get_peft_model_state_dict(self.model, adapter_name=_START, save_embedding_layers=False)
        with torch.no_grad():
            for name, tensor in start.items():
                tensor.copy_(trained[_PREFIX + name])
        self._activate(_TRAINED)
        self._has_start = True

    @contextmanager
    def start(self) -> Iterator[None]:
        """Within this context the model computes as when `freeze_start` was called; gradients of earlier passes are kept."""
        if self._has_start:
            self._activate(_START, trains=False)
        else:
            for layer in self.layers():
                layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self.layers():
                layer.enable_adapters(True)
            self._activate(_TRAINED)

    @property
    def is_at_start(self) -> bool:
        """Whether the model is currently within `start`."""
        return any(layer.disable_adapters or _START in layer.active_adapters for layer in self.layers()[:1])

    def _activate(self, name: str, *, trains: bool = True) -> None:
        for layer in self.layers():
            layer.set_adapter(name, inference_mode=not trains)

    def fingerprint(self) -> str:
        """A hash of the base and of the trained adapter."""
        digest = hashlib.blake2b(self.base.fingerprint.encode(), digest_size=16)
        for name, tensor in sorted(self.state().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def merged(self) -> Any:
        """A copy of the model with the adapter merged into its weights, without peft's layers.

        Raises ConfigError if the weights are in 4 bits, to which an adapter cannot be added.
        """
        if not all(parameter.is_floating_point() for parameter in self.model.parameters()):
            raise ConfigError(
                "an adapter cannot be added to weights in 4 bits (policy.quantization), because rounding would erase it"
            )
        model = copy.deepcopy(self.model)
        for layer in self.of(model).layers():
            layer.merge(adapter_names=[_TRAINED])
        return _without_layers(model)

    def without_layers(self) -> Any:
        """A copy of the base model, without peft's layers."""
        return _without_layers(copy.deepcopy(self.model))

    def write(self, directory: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write a peft directory that identifies the base by its fingerprint. state: replaces `state()` if given."""
        directory.mkdir(parents=True, exist_ok=True)
        config = self.model.peft_config[_TRAINED]
        config.save_pretrained(str(directory))
        tensors = (self.state() if state is None else state).items()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors}, directory / ADAPTER_WEIGHTS)
        values = {"fingerprint": self.base.fingerprint, "loader": self.base.loader, "arguments": dict(self.base.arguments)}
        (directory / BASE_FILE).write_text(json.dumps({"name": self.base.name, **values}, indent=2) + "\n")


class LowRank(NamedTuple):
    """The part of an adapter in a layer: scale * B A x. down: A [R, I]; up: B [O, R]."""

    down: Tensor
    up: Tensor
    scale: float

    def add_to(self, result: Tensor, rows: Tensor) -> Tensor:
        """Add its output for rows [M, I] to result [M, O], in place. Under autocast, where result is in 16 bits, as peft does."""
        if result.dtype != self.up.dtype:
            return result.add_(F.linear(F.linear(rows, self.down), self.up), alpha=self.scale)
        return result.addmm_(F.linear(rows, self.down), self.up.t(), alpha=self.scale)


def linear_parts(layer: Any) -> tuple[Any, LowRank | None] | None:
    """The linear layer in `layer`, and the low-rank part that its active adapter adds; None if it is any other module."""
    if is_linear(layer):
        return layer, None
    if not hasattr(layer, "low_rank") or not is_linear(base := layer.get_base_layer()):
        return None
    if layer.disable_adapters and not layer.merged:
        return base, None
    added = layer.low_rank()
    return None if added is None or added.down.dtype != base.weight.dtype else (base, added)


@contextmanager
def moved_adapters(model: Any) -> Iterator[None]:
    """Within this context every adapter is perturbed slightly, so that comparisons also exercise a fresh one (B = 0)."""
    ups = [parameter for name, parameter in model.named_parameters() if ".lora_B." in name]
    before = [parameter.detach().clone() for parameter in ups]
    generator = Stream(0, ("policy", "moved adapters")).torch()
    with torch.no_grad():
        for parameter in ups:
            parameter.add_(MOVED * torch.randn(parameter.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(ups, before, strict=True):
                parameter.copy_(values)


def _compute_in_place(layer: Any) -> None:
    """Make a layer add the adapter's output to the base's result in place, if both have the same dtype.

    peft creates three more tensors of the result's size per layer, and on a CPU the gaps that they leave in memory are not
    reused: a forward pass then took 1.6 times the memory.
    """
    from peft.tuners.lora.layer import Linear

    if type(layer) is Linear and is_linear(layer.get_base_layer()):
        layer.__class__ = _in_place_class()


@functools.cache
def _in_place_class() -> type:
    from peft.tuners.lora.layer import Linear

    class InPlaceLinear(Linear):
        """A peft linear layer that computes y = W x + b and adds scaling * B A x in place."""

        def low_rank(self) -> LowRank | None:
            """The part added to W x + b; None if the layer computes differently."""
            plain = not (self.disable_adapters or self.merged or self.lora_variant) and len(self.active_adapters) == 1
            if not plain or self.lora_B[self.active_adapters[0]].bias is not None:
                return None
            name = self.active_adapters[0]
            down, up = (matrices[name].get_parameter("weight") for matrices in (self.lora_A, self.lora_B))
            return LowRank(down, up, self.scaling[name])

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            added, base = self.low_rank(), self.get_base_layer()
            if added is None or args or kwargs or torch.is_autocast_enabled(x.device.type):
                return super().forward(x, *args, **kwargs)
            if not x.dtype == base.weight.dtype == added.down.dtype:
                return super().forward(x)
            rows = x.flatten(0, -2)  # a matrix, as autograd copies the gradient of a view that was written to
            return added.add_to(base(rows), rows).view(*x.shape[:-1], -1)

    return InPlaceLinear


def _without_layers(model: Any) -> Any:
    """Replace each peft layer of the model by the layer that it wraps, in place; no weight is trainable afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in [*model.named_modules()]:
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    del model.peft_config
    return model.requires_grad_(False)


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter on disk. base: None if rlx did not write the directory; base_name: peft's name of the base."""

    directory: Path
    lora: Lora
    base: BaseModel | None
    base_name: str

    @staticmethod
    def of(directory: Path) -> SavedAdapter:
        """Read the description of a peft directory. Raises ConfigError if it is damaged, or not a LoRA."""
        try:
            config = json.loads((directory / ADAPTER_CONFIG).read_text())
            if config["peft_type"] != "LORA":
                raise ConfigError(f"{directory} holds an adapter of type {config['peft_type']}; rlx reads only LoRA adapters")
            if unread := [name for name in _UNREAD if config.get(name) not in (None, False, "none", [], {})]:
                raise ConfigError(
                    f"the adapter in {directory} has {unread[0]}={config[unread[0]]!r:.60}, which rlx does not support; merge "
                    "the adapter into its base model with peft's merge_and_unload and give the merged model"
                )
            targets = config["target_modules"]
            lora = Lora(
                rank=config["r"],
                alpha=float(config["lora_alpha"]),
                targets=targets if isinstance(targets, str) else sorted(targets),
                rslora=bool(config.get("use_rslora")),
                dora=bool(config.get("use_dora")),
            )
            base = None
            if (directory / BASE_FILE).is_file():
                base = BaseModel(**json.loads((directory / BASE_FILE).read_text()))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ConfigError(f"the adapter in {directory} cannot be read: {type(error).__name__}: {error}") from error
        return SavedAdapter(directory, lora, base, str(config.get("base_model_name_or_path") or ""))


def read_adapter_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a peft directory. Raises ConfigError if they cannot be read."""
    file = directory / ADAPTER_WEIGHTS
    try:
        tensors: dict[str, Tensor] = load_file(file) if file.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not tensors or not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise ConfigError(f"{file} cannot be read: {'its tensors are not weights' if tensors else 'there are no tensors'}")
    return tensors


def _peft() -> Any:
    try:
        import peft
        import peft.functional
    except ImportError as error:
        raise ConfigError("an adapter needs the package peft: pip install 'rlx[lora]'") from error
    return peft
