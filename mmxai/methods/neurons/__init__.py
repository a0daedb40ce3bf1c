"""Single units of a store or a model: what drives them, what they tell, what hangs on them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.methods.neurons.ablation import Ablation as Ablation
    from mmxai.methods.neurons.ablation import ablate as ablate
    from mmxai.methods.neurons.config import NeuronsConfig as NeuronsConfig
    from mmxai.methods.neurons.contribution import Contribution as Contribution
    from mmxai.methods.neurons.contribution import activation_gradient as activation_gradient
    from mmxai.methods.neurons.contribution import logit_contribution as logit_contribution
    from mmxai.methods.neurons.contribution import similarity_contribution as similarity_contribution
    from mmxai.methods.neurons.labels import RowLabels as RowLabels
    from mmxai.methods.neurons.latents import Latents as Latents
    from mmxai.methods.neurons.matching import Matches as Matches
    from mmxai.methods.neurons.matching import match as match
    from mmxai.methods.neurons.results import Neurons as Neurons
    from mmxai.methods.neurons.survey import neurons as neurons

_HOMES = {
    "Ablation": "mmxai.methods.neurons.ablation",
    "Contribution": "mmxai.methods.neurons.contribution",
    "Latents": "mmxai.methods.neurons.latents",
    "Matches": "mmxai.methods.neurons.matching",
    "Neurons": "mmxai.methods.neurons.results",
    "NeuronsConfig": "mmxai.methods.neurons.config",
    "RowLabels": "mmxai.methods.neurons.labels",
    "ablate": "mmxai.methods.neurons.ablation",
    "activation_gradient": "mmxai.methods.neurons.contribution",
    "logit_contribution": "mmxai.methods.neurons.contribution",
    "match": "mmxai.methods.neurons.matching",
    "neurons": "mmxai.methods.neurons.survey",
    "similarity_contribution": "mmxai.methods.neurons.contribution",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.methods.neurons' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
