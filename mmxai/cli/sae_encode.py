"""Encode a whole store with an SAE: a new store whose rows are the codes, with exemplars of every latent.

The same command goes on where it was interrupted, and several workers may run it at once.

example:
  mmxai sae encode runs/vision.5.resid_post acts.zarr latents.zarr
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from mmxai.cli import OK
from mmxai.methods.sae.encode import EncodeConfig


@dataclass
class Config:
    sae: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAE")]
    """Folder of the SAE."""
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store of activations."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The store of codes that is made, or gone on with."""
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    device: str = "cpu"


def run(config: Config) -> int:
    import mmxai
    from mmxai.methods.sae import load_sae
    from mmxai.methods.sae.encode import encode_store

    with mmxai.open_store(config.store) as store:
        print(encode_store(load_sae(config.sae, config.device), store, config.out, config.encode))
    return OK
