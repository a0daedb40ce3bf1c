"""mmxai: harvest activations of multimodal models once, interpret everything.

Names load on first use, so that `import mmxai` is quick and works where torch is absent (a Zarr reader
that only needs the bfloat16 data type).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy
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
    "Batch": "types",
    "LinearProbe": "methods.probe",
    "Model": "models",
    "Rows": "types",
    "SAE": "methods.sae",
    "Store": "store",
    "create_store": "store",
    "edits": "models",
    "harvest": "harvesting",
    "load_model": "models",
    "load_sae": "methods.sae",
    "open_store": "store",
    "train_sae": "methods.sae",
    "wrap": "models",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)

# zarr 3.1 collects the entry points of data types but does not load them.
_register_bfloat16()
