"""How each architecture chooses codes in training, what it charges for them, and their gradient.

`step.py` asks for one `Choice` a batch, shows it the pre-activations block by block, and after the decoder's
error comes back for their gradient. `after` sees each batch's codes once the weights have moved.
"""

from __future__ import annotations

from typing import Any, Protocol

from mmxai.errors import ArgumentError
from mmxai.kernels.codes import Codes
from mmxai.methods.sae.arch.batchtopk import BatchTopK
from mmxai.methods.sae.arch.jumprelu import JumpReLU
from mmxai.methods.sae.arch.matryoshka import Matryoshka
from mmxai.methods.sae.arch.relu import ReLU
from mmxai.methods.sae.arch.topk import TopK
from mmxai.methods.sae.config import TrainConfig
from mmxai.methods.sae.spec import SAESpec
from mmxai.methods.sae.step import Arch, Weights


class Trained(Arch, Protocol):
    """What training wants of an architecture beside what a step does."""

    ramp: float
    """Share of the sparsity penalty in force, 0 to 1; the loop raises it."""

    def first(self, weights: Weights) -> None:
        """Gives `threshold` its first value, where there is one."""

    def after(self, weights: Weights, codes: Codes) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """JSON: what a run needs to go on exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_arch(spec: SAESpec, config: TrainConfig, norm: float = 1.0) -> Trained:
    """`norm`: root mean square length of the centred targets, in which an L1 penalty is measured."""
    match spec.arch:
        case "topk":
            return TopK(spec.k or 0)
        case "batchtopk":
            return BatchTopK(spec.k or 0)
        case "matryoshka":
            return Matryoshka(spec.k or 0, spec.prefixes)
        case "relu":
            return ReLU(config.penalty_of() / norm)
        case "jumprelu":
            width = config.bandwidth or 0.03 * norm / spec.width_in**0.5
            return JumpReLU(config.penalty_of(), width, config.target_l0)
    raise ArgumentError(f"SAE: got architecture {spec.arch!r}, which has no training")
