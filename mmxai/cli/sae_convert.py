"""Convert an SAE between mmxai, SAELens, sparsify and dictionary_learning; from ViT-Prisma too.

SAE is a folder, or a checkpoint file, of any of them: which one is seen from its files. Pickled checkpoints
are read with PyTorch's weights_only=True in a process of their own. What is written is safetensors and JSON,
but for dictionary_learning, which reads nothing but a pickle. Outputs stay equal to 1e-5.

examples:
  mmxai sae convert sparse-autoencoder-clip-b-32/ prisma-9/
  mmxai sae convert layers.5/ converted/ --site text.5.resid_post
  mmxai sae convert runs/k32/ for-saelens/ --to saelens
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError


@dataclass
class Config:
    sae: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAE")]
    """Folder or checkpoint file."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write, absent or empty."""
    to: Literal["mmxai", "saelens", "sparsify", "dictionary_learning"] = "mmxai"
    """Layout to write."""
    layout: Literal["auto", "mmxai", "saelens", "sparsify", "dictionary_learning", "prisma"] = "auto"
    """Layout to read."""
    site: str | None = None
    """Name of its site here; default: what its configuration tells."""
    site_out: str | None = None
    """Name of a transcoder's output site."""


def run(config: Config) -> int:
    from mmxai.methods.sae.interop import read_sae, write_sae

    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArgumentError(f"{out}: got something that is there already, expected an absent or empty folder")
    sae = read_sae(config.sae, config.layout, site=config.site, site_out=config.site_out)
    write_sae(sae, out, config.to)
    print(f"{out}: {sae}")
    if "unknown" in sae.spec.sites:
        print("its configuration names no site; convert again with --site to use it on a store")
    return OK
