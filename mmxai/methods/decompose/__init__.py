"""Representations as sums of few directions: PCA, ICA, (semi-)NMF, k-means, and SAEs in the same table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.methods.decompose.comparison import Comparison as Comparison
    from mmxai.methods.decompose.comparison import Entry as Entry
    from mmxai.methods.decompose.comparison import compare as compare
    from mmxai.methods.decompose.config import FitConfig as FitConfig
    from mmxai.methods.decompose.dictionary import Dictionary as Dictionary
    from mmxai.methods.decompose.dictionary import load_dictionary as load_dictionary
    from mmxai.methods.decompose.encode import encode_store as encode_store
    from mmxai.methods.decompose.fit import fit_dictionary as fit_dictionary
    from mmxai.methods.decompose.names import ActivationNames as ActivationNames
    from mmxai.methods.decompose.names import activation_names as activation_names
    from mmxai.methods.decompose.run import decompose as decompose

_HOMES = {
    "ActivationNames": "names",
    "Comparison": "comparison",
    "Dictionary": "dictionary",
    "Entry": "comparison",
    "FitConfig": "config",
    "activation_names": "names",
    "compare": "comparison",
    "decompose": "run",
    "encode_store": "encode",
    "fit_dictionary": "fit",
    "load_dictionary": "dictionary",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
