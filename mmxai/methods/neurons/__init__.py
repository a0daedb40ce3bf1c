"""Single units of a store or a model: what drives them, what they tell, what hangs on them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.methods.neurons.config import NeuronsConfig as NeuronsConfig
    from mmxai.methods.neurons.labels import RowLabels as RowLabels
    from mmxai.methods.neurons.results import Neurons as Neurons
    from mmxai.methods.neurons.survey import neurons as neurons

_HOMES = {
    "Neurons": "mmxai.methods.neurons.results",
    "NeuronsConfig": "mmxai.methods.neurons.config",
    "RowLabels": "mmxai.methods.neurons.labels",
    "neurons": "mmxai.methods.neurons.survey",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.methods.neurons' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
