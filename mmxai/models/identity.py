"""What makes two models the same for a store: config, weights, dtype; not where they were loaded from."""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from typing import Any

import torch
from torch import nn

FULL_BYTES = 256 * 2**20
"""Up to this many bytes of weights are hashed whole."""

_SAMPLES = 4096

# Keys that change between library versions or machines and leave the computation alone.
_VOLATILE = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "_commit_hash",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "use_cache",
}


def identity_of(module: nn.Module, config: Any, name: str, family: str, dtype: torch.dtype) -> dict[str, Any]:
    """JSON of a model for the plan."""
    return {
        "name": name,
        "family": family,
        "class": type(module).__name__,
        "config": config_hash(module, config),
        "weights": fingerprint(module),
        "dtype": str(dtype).removeprefix("torch."),
    }


def config_hash(module: nn.Module, config: Any) -> str:
    """SHA-256 (hex) of the config as canonical JSON; of the module's printed structure where it has none."""
    if config is None:
        return sha256(repr(module).encode()).hexdigest()
    text = json.dumps(_stable(config.to_dict()), sort_keys=True, separators=(",", ":"), default=str)
    return sha256(text.encode()).hexdigest()


def fingerprint(module: nn.Module) -> str:
    """BLAKE2b-128 (hex) over name, shape, dtype and bytes of every tensor of the state dict.

    Above `FULL_BYTES` in total, 4,096 values of each tensor stand for it, evenly spread and with both ends:
    any training step changes them, a change of a few single weights may go unnoticed.
    """
    state = {k: v for k, v in sorted(module.state_dict().items()) if isinstance(v, torch.Tensor)}
    whole = sum(v.nbytes for v in state.values()) <= FULL_BYTES
    digest = blake2b(digest_size=16)
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().reshape(-1)
        if not whole and flat.numel() > _SAMPLES:
            flat = flat[
                torch.linspace(0, flat.numel() - 1, _SAMPLES, dtype=torch.float64).long().to(flat.device)
            ]
        if flat.numel():
            digest.update(flat.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _stable(v) for k, v in value.items() if k not in _VOLATILE and v is not None}
    if isinstance(value, list | tuple):
        return [_stable(v) for v in value]
    return value
