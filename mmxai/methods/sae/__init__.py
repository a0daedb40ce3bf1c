"""Sparse autoencoders, transcoders and crosscoders: `SAE`, `load_sae`, `train_sae`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.methods.sae.config import TrainConfig as TrainConfig
    from mmxai.methods.sae.model import SAE as SAE
    from mmxai.methods.sae.model import load_sae as load_sae
    from mmxai.methods.sae.spec import SAESpec as SAESpec
    from mmxai.methods.sae.train import train_sae as train_sae

_HOMES = {
    "SAE": "mmxai.methods.sae.model",
    "SAESpec": "mmxai.methods.sae.spec",
    "TrainConfig": "mmxai.methods.sae.config",
    "load_sae": "mmxai.methods.sae.model",
    "train_sae": "mmxai.methods.sae.train",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.methods.sae' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
