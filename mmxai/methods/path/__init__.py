"""A model's output as the sum of what heads, MLPs, neurons, embeddings and biases contribute to it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.methods.path.ablation import Ablation as Ablation
    from mmxai.methods.path.ablation import ablate as ablate
    from mmxai.methods.path.ablation import mean_edits as mean_edits
    from mmxai.methods.path.path import Path as Path
    from mmxai.methods.path.path import Targets as Targets
    from mmxai.methods.path.path import Term as Term
    from mmxai.methods.path.results import Contributions as Contributions
    from mmxai.methods.path.results import contributions as contributions

_HOMES = {
    "Ablation": "ablation",
    "Contributions": "results",
    "Path": "path",
    "Targets": "path",
    "Term": "path",
    "ablate": "ablation",
    "contributions": "results",
    "mean_edits": "ablation",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.methods.path' has no attribute {name!r}")
    return getattr(import_module(f"mmxai.methods.path.{_HOMES[name]}"), name)
