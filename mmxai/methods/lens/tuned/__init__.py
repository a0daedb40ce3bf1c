"""The tuned lens: affine translators from each state of the stream to the last, trained from a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.methods.lens.tuned.config import TunedLensConfig as TunedLensConfig
    from mmxai.methods.lens.tuned.layout import load_tuned_lens as load_tuned_lens
    from mmxai.methods.lens.tuned.layout import save_tuned_lens as save_tuned_lens
    from mmxai.methods.lens.tuned.results import TunedLensResult as TunedLensResult
    from mmxai.methods.lens.tuned.train import tune_lens as tune_lens
    from mmxai.methods.lens.tuned.translators import TunedLens as TunedLens

_HOMES = {
    "TunedLens": "translators",
    "TunedLensConfig": "config",
    "TunedLensResult": "results",
    "load_tuned_lens": "layout",
    "save_tuned_lens": "layout",
    "tune_lens": "train",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
