"""Linear algebra over rows that stream by, shared by methods. Names load on first use: some need scipy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.linalg.gram import FoldedGram as FoldedGram
    from mmxai.linalg.leace import Leace as Leace
    from mmxai.linalg.moments import Moments as Moments
    from mmxai.linalg.solve import ridge_path as ridge_path
    from mmxai.linalg.states import DualState as DualState
    from mmxai.linalg.states import GramState as GramState

_HOMES = {
    "DualState": "mmxai.linalg.states",
    "FoldedGram": "mmxai.linalg.gram",
    "GramState": "mmxai.linalg.states",
    "Leace": "mmxai.linalg.leace",
    "Moments": "mmxai.linalg.moments",
    "ridge_path": "mmxai.linalg.solve",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.linalg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
