"""The logit lens: what every block, position and head would say if it were the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.methods.lens.layers import Transfer as Transfer
    from mmxai.methods.lens.layers import transfer as transfer
    from mmxai.methods.lens.layers import transfer_store as transfer_store
    from mmxai.methods.lens.maps import PictureMap as PictureMap
    from mmxai.methods.lens.maps import images_of as images_of
    from mmxai.methods.lens.maps import picture_map as picture_map
    from mmxai.methods.lens.results import LensResult as LensResult
    from mmxai.methods.lens.results import load_lens as load_lens
    from mmxai.methods.lens.run import lens as lens
    from mmxai.methods.lens.run import lens_store as lens_store

_HOMES = {
    "LensResult": "results",
    "PictureMap": "maps",
    "Transfer": "layers",
    "images_of": "maps",
    "lens": "run",
    "lens_store": "run",
    "load_lens": "results",
    "picture_map": "maps",
    "transfer": "layers",
    "transfer_store": "layers",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
