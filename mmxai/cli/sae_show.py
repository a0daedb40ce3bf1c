"""Write pages about an SAE: its training curves, its dictionary, and a page a latent.

STORE is a store of latents, as `mmxai sae encode` makes it. DATA is what was harvested, for its pictures.

examples:
  mmxai sae show runs/k32 latents.zarr --images pictures/
  mmxai sae show runs/k32 latents.zarr --images pictures/ --model clip/ --latents 256
  mmxai sae show runs/k32 latents.zarr --model gpt2/ --only 17,40,311
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.methods.sae.model import SAE
    from mmxai.methods.sae.texts import NearTexts
    from mmxai.models import Model
    from mmxai.store import Store

METRICS, EVALUATION = "metrics.jsonl", "eval.json"


@dataclass
class Config:
    sae: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAE")]
    """Folder of the SAE."""
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Store of its latents."""
    out: str = "pages"
    """Folder for the pages."""
    site: str | None = None
    """Which site of the store; default: the only one stored as topk."""
    latents: int = 64
    """How many latents have pages, drawn at random among those ever active."""
    only: str = ""
    """Which latents have pages, in place of a draw: numbers with commas between."""
    top: int = 24
    """Examples a latent."""
    seed: int = 0
    """Seed of the draws."""
    images: str | None = None
    """The data set that was harvested, for its pictures."""
    model: str | None = None
    """The model: decodes tokens; of a CLIP, names directions by their nearest texts."""
    texts: str | None = None
    """A text file, a candidate a line; default: words and short runs of words of the store's captions."""
    compare: tuple[str, ...] = ()
    """Folders of further SAEs whose training curves are drawn beside."""
    device: str | None = None
    """Where the model runs."""


def run(config: Config) -> int:
    from tqdm import tqdm

    from mmxai.methods.sae import load_sae
    from mmxai.models import load_model
    from mmxai.report.sae import (
        DRAWN,
        draw_latents,
        latent_pages,
        latents_site,
        read_evaluation,
        read_metrics,
    )
    from mmxai.store import open_store

    sae = load_sae(config.sae)
    asked = _numbers(config.only)
    measured = Path(config.sae) / EVALUATION
    folders = {Path(folder).name: Path(folder) / METRICS for folder in (config.sae, *config.compare)}
    runs = {name: read_metrics(path) for name, path in folders.items() if path.exists()}
    model = load_model(config.model, device=config.device) if config.model else None
    with open_store(config.store) as store:
        site = config.site or latents_site(store)
        _check(sae, store)
        chosen = asked or draw_latents(store, site, config.latents, config.seed)
        texts = None if model is None else _near(sae, model, store, chosen, config.texts)
        with tqdm(total=len(chosen), unit="page", disable=None) as bar:
            written = latent_pages(
                sae, store, config.out, site=site, latents=chosen, images=_pictures(config.images),
                decode=None if model is None else _decoder(model), texts=texts, runs=runs, top=config.top,
                evaluation=read_evaluation(measured) if measured.exists() else None,
                how="as asked for" if asked else DRAWN, seed=config.seed, progress=lambda: bar.update(),
            )  # fmt: skip
    print(written)
    return OK


def _check(sae: SAE, store: Store) -> None:
    """ArgumentError where the store says that another SAE made its latents."""
    from mmxai.methods.sae.nulls import fingerprint

    made_by, own = store.plan.identity.get("sae"), fingerprint(sae)
    if isinstance(made_by, dict) and made_by.get("weights", own) != own:
        raise ArgumentError(
            f"{store.path}: was encoded by another SAE (weights {made_by['weights']}, this one {own}), "
            "expected the store that this SAE was encoded to; `mmxai sae encode` makes it"
        )


def _near(sae: SAE, model: Model, store: Store, latents: Sequence[int], file: str | None) -> NearTexts | None:
    """None, and a line that says why, where the model has no joint space and no texts were given."""
    from mmxai.methods.sae.texts import JointPath, near_texts, phrases

    reason = JointPath.missing(model, sae.spec.sites_out)
    if reason is not None and file is None:
        print(f"no nearest texts: {reason}")
        return None
    if file is not None:
        candidates = Path(file).read_text(encoding="utf-8").splitlines()
    else:
        candidates = phrases(s.text for s in store.samples if s.text)
        if len(candidates) < 2:
            print("no nearest texts: the store has no captions, --texts names a file of candidates")
            return None
    found = near_texts(sae, model, [c.strip() for c in candidates if c.strip()], latents)
    print(found)
    return found


def _pictures(data: str | None) -> Callable[[int], Image.Image] | None:
    from mmxai.data import Source, open_data

    if data is None:
        return None
    source = open_data(data)
    if not isinstance(source, Source):
        raise ArgumentError(f"--images {data}: got a stream, expected data whose samples can be asked for")

    def picture(index: int) -> Image.Image:
        image = source[index].image
        if image is None:
            raise ArgumentError(
                f"--images {data}: sample {index} has no picture, expected the data harvested"
            )
        return image

    return picture


def _decoder(model: Model) -> Callable[[int], str] | None:
    text = next((name for name in model.towers if model.modality(name) == "text"), None)
    pipeline = None if text is None else model.set_texts(text)
    return None if pipeline is None else lambda token: pipeline.decode([token])


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ArgumentError(f"--only: got {text!r}, expected numbers with commas between, as 3,17") from error
