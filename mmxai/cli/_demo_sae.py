"""The demo's sparse autoencoder: trained on patches of the store, measured, encoded, shown."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Literal

from mmxai.cli import sae_show
from mmxai.labels import Truth
from mmxai.methods.sae import train_sae
from mmxai.methods.sae.encode import encode_store
from mmxai.methods.sae.evaluate import EvalConfig, evaluate

if TYPE_CHECKING:
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store

SITE = "vision.3.mlp_post"
_EPOCHS, _LATENTS, _K, _BATCH = 4, 1024, 16, 2048  # half a minute on two cores, with all that follows
_SHOWN, _HELD_OUT = 24, 300


def show_sae(store: Store, world: ShapesWorld, model: str, out: Path, seed: int) -> Path:
    """The index of the pages about an SAE of the store's patches at `SITE`; what is there already stays."""
    name = store.path.stem
    (sae,) = train_sae(
        store, sites=SITE, tokens="patch", latents=_LATENTS, k=_K, batch=_BATCH, epochs=_EPOCHS, seed=seed,
        log_every=10, out=out / f"sae-{name}",
    )  # fmt: skip
    home = out / f"sae-{name}" / SITE
    # A tenth of few pictures would be too few to score concepts on; the table then says what it is of.
    split: Literal["test"] | None = "test" if len(world) >= _HELD_OUT else None
    config = EvalConfig(split=split, nulls=("pca",), rows=32768, samples=512, seed=seed)
    found = evaluate(sae, store, config, truth=Truth.of_world(world))
    found.save(home / "eval.json")
    print(indent(f"{sae}\n{found}", "   "))
    latents = out / f"latents-{name}.zarr"
    print(indent(str(encode_store(sae, store, latents)), "   "))
    pages = out / "sae"
    shown = sae_show.Config(
        sae=str(home), store=str(latents), out=str(pages), model=model, latents=_SHOWN, seed=seed
    )
    sae_show.run(shown)
    return pages / "index.html"
