"""Sparse autoencoders, transcoders and crosscoders: `SAE`, `load_sae`, `train_sae`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.methods.sae.config import TrainConfig as TrainConfig
    from mmxai.methods.sae.model import SAE as SAE
    from mmxai.methods.sae.model import load_sae as load_sae
    from mmxai.methods.sae.spec import SAESpec as SAESpec
    from mmxai.methods.sae.train import train_sae as train_sae

_HOMES = {
    "SAE": "model",
    "SAESpec": "spec",
    "TrainConfig": "config",
    "load_sae": "model",
    "train_sae": "train",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
