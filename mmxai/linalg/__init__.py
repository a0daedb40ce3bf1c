"""Linear algebra over rows that stream by, shared by methods. Names load on first use: some need scipy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.linalg.gram import FoldedGram as FoldedGram
    from mmxai.linalg.leace import Leace as Leace
    from mmxai.linalg.moments import Moments as Moments
    from mmxai.linalg.solve import ridge_path as ridge_path
    from mmxai.linalg.states import DualState as DualState
    from mmxai.linalg.states import GramState as GramState

_HOMES = {
    "DualState": "states",
    "FoldedGram": "gram",
    "GramState": "states",
    "Leace": "leace",
    "Moments": "moments",
    "ridge_path": "solve",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
