"""The identity of a policy: a hash of what decides its log-probabilities."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from rlx.data.tokens import tokenizer_text

# Fields of a model's configuration that say where it came from or how it is run, not what it computes.
_NOT_ARCHITECTURE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}


def fingerprint(model: Any, tokenizer: Any) -> str:
    """32 hexadecimal digits that stand for the weights, the architecture and the tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_ARCHITECTURE}
    digest.update(json.dumps([type(model).__name__, config], sort_keys=True, default=str).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(tokenizer_text(tokenizer).encode())
    return digest.hexdigest()
