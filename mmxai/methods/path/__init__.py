"""A model's output as the sum of what heads, MLPs, neurons, embeddings and biases contribute to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.methods.path.ablation import Ablation as Ablation
    from mmxai.methods.path.ablation import ablate as ablate
    from mmxai.methods.path.ablation import class_margins as class_margins
    from mmxai.methods.path.path import Path as Path
    from mmxai.methods.path.path import Targets as Targets
    from mmxai.methods.path.path import Term as Term
    from mmxai.methods.path.results import Contributions as Contributions
    from mmxai.methods.path.results import contributions as contributions
    from mmxai.methods.path.whole import ablate_whole as ablate_whole
    from mmxai.methods.path.whole import mean_edits as mean_edits
    from mmxai.methods.path.whole import token_means as token_means

_HOMES = {
    "Ablation": "ablation",
    "Contributions": "results",
    "Path": "path",
    "Targets": "path",
    "Term": "path",
    "ablate": "ablation",
    "ablate_whole": "whole",
    "class_margins": "ablation",
    "contributions": "results",
    "mean_edits": "whole",
    "token_means": "whole",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
