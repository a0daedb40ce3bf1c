"""Train a tuned lens: affine maps from each stored state of the stream to the last one.

The start is least squares in closed form; KL to the model's output is then lowered by descent, out of core,
with samples held out. OUT gets the lens in tuned-lens's layout (config.json, params.safetensors, params.pt),
tuned.json with the KL of each site before and after, and a checkpoint from which a stopped run goes on.
`mmxai lens` reads states through it with --tuned OUT.

examples:
  mmxai harvest gpt2/ texts.txt --sites 'text.*.resid_post' --store acts.zarr
  mmxai tune acts.zarr --model gpt2/ --out tuned
  mmxai tune acts.zarr --model gpt2/ --out tuned --tokens text --steps 1000
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mmxai.cli import OK
from mmxai.methods.lens.tuned.config import TunedLensConfig

RESULT = "tuned.json"


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store of activations, the last block's resid_post among them."""
    model: str
    """The model that was harvested, or a folder with its unembedding."""
    out: str
    """Folder of the lens."""
    tower: str = "text"
    """Whose stream."""
    against: tuple[str, ...] = ()
    """Of a CLIP: the texts whose distribution is matched."""
    config: TunedLensConfig = field(default_factory=TunedLensConfig)
    pickled: bool = True
    """Also write params.pt, the one file that the tuned-lens package reads."""


def run(config: Config) -> int:
    from mmxai.cli._shown import same_model
    from mmxai.methods.lens.tuned import save_tuned_lens, tune_lens
    from mmxai.models import load_model
    from mmxai.models.unembedding import is_unembedding, load_unembedding, unembedding
    from mmxai.store import open_store

    with open_store(config.store) as store:
        if is_unembedding(config.model):
            end = load_unembedding(config.model, device=config.config.device)
        else:
            model = load_model(config.model, device=config.config.device)
            same_model(model, store)
            end = unembedding(model, config.tower, config.against or None)
        out = Path(config.out)
        found = tune_lens(store, end, config.config, out=out)
    save_tuned_lens(found.lens, out, pickled=config.pickled)
    found.save(out / RESULT)
    print(found)
    print(f"\nwritten to {out}")
    return OK
