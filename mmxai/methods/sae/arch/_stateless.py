"""What an architecture without a threshold says when it is asked for it."""

from __future__ import annotations

from typing import Any

from mmxai.kernels.codes import Codes
from mmxai.methods.sae.step import Weights


class Stateless:
    def first(self, weights: Weights) -> None:
        """It has no threshold."""

    def after(self, weights: Weights, codes: Codes) -> None:
        """Nothing is kept."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""
