"""mmxai: harvest activations of multimodal models once, interpret everything.

Names load on first use, so that `import mmxai` is quick and works where torch is absent (a Zarr reader
that only needs the bfloat16 data type).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmxai.store.bfloat16 import register as _register_bfloat16

if TYPE_CHECKING:
    from mmxai.harvesting import harvest as harvest
    from mmxai.methods.probe import LinearProbe as LinearProbe
    from mmxai.methods.sae import SAE as SAE
    from mmxai.methods.sae import load_sae as load_sae
    from mmxai.methods.sae import train_sae as train_sae
    from mmxai.models import Model as Model
    from mmxai.models import edits as edits
    from mmxai.models import load_model as load_model
    from mmxai.models import wrap as wrap
    from mmxai.store import Store as Store
    from mmxai.store import create_store as create_store
    from mmxai.store import open_store as open_store
    from mmxai.types import Batch as Batch
    from mmxai.types import Rows as Rows

__version__ = "0.1.0"

_HOMES = {
    "Batch": "mmxai.types",
    "LinearProbe": "mmxai.methods.probe",
    "Model": "mmxai.models",
    "Rows": "mmxai.types",
    "SAE": "mmxai.methods.sae",
    "Store": "mmxai.store",
    "create_store": "mmxai.store",
    "edits": "mmxai.models",
    "harvest": "mmxai.harvesting",
    "load_model": "mmxai.models",
    "load_sae": "mmxai.methods.sae",
    "open_store": "mmxai.store",
    "train_sae": "mmxai.methods.sae",
    "wrap": "mmxai.models",
}

__all__ = [*_HOMES]

# zarr 3.1 collects the entry points of data types but does not load them.
_register_bfloat16()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
