"""Single units of a store or a model: what drives them, what they tell, what hangs on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

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
    "Ablation": "ablation",
    "Contribution": "contribution",
    "Latents": "latents",
    "Matches": "matching",
    "Neurons": "results",
    "NeuronsConfig": "config",
    "RowLabels": "labels",
    "ablate": "ablation",
    "activation_gradient": "contribution",
    "logit_contribution": "contribution",
    "match": "matching",
    "neurons": "survey",
    "similarity_contribution": "contribution",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
