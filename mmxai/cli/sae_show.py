"""Write pages about an SAE: its training curves, its dictionary, and a page a latent.

STORE is a store of latents, as `mmxai sae encode` makes it. --images is what was harvested, for its pictures;
those of the shapes world are drawn again without it.

examples:
  mmxai sae show sae/vision.5.resid_post latents.zarr --images pictures/
  mmxai sae show sae/vision.5.resid_post latents.zarr --images pictures/ --model clip/ --latents 256
  mmxai sae show sae/text.3.resid_post latents.zarr --model gpt2/ --only 17,40,311
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    from mmxai.methods.sae.model import SAE
    from mmxai.models import Model
    from mmxai.models.near_texts import NearTexts
    from mmxai.report.sae.training import Series

METRICS, EVALUATION = "metrics.jsonl", "eval.json"
_CAPTIONS = 100_000  # looked through for candidate texts


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
    """Examples a latent, as far as the store has so many."""
    seed: int = 0
    """Seed of the draws."""
    images: str | None = None
    """The data set that was harvested, for its pictures."""
    model: str | None = None
    """The model that was harvested: decodes tokens; of a CLIP, names directions by their nearest texts."""
    texts: str | None = None
    """A text file, a candidate a line; default: words and short runs of words of the store's captions."""
    compare: tuple[str, ...] = ()
    """Folders of further SAEs whose training curves are drawn beside."""
    device: str | None = None
    """Where the model runs."""


def run(config: Config) -> int:
    from tqdm import tqdm

    from mmxai.cli._harvested import world_of
    from mmxai.cli._shown import decoder_of, numbers_of, pictures_of, same_model, same_sae
    from mmxai.methods.sae import load_sae
    from mmxai.models import load_model
    from mmxai.report.sae import DRAWN, draw_latents, latent_pages, latents_site, read_evaluation
    from mmxai.store import open_store

    asked = numbers_of(config.only)
    if config.latents < 1 or config.top < 1:
        raise ArgumentError(
            f"sae show: got --latents {config.latents}, --top {config.top}, expected at least 1 of each"
        )
    sae = load_sae(config.sae)
    measured = Path(config.sae) / EVALUATION
    evaluation = read_evaluation(measured) if measured.exists() else None
    runs = _runs(config.sae, config.compare)
    with open_store(config.store) as store:
        site = config.site or latents_site(store)
        same_sae(sae, store)
        world = world_of(store, config.images)
        images = pictures_of(config.images or world, store)
        first = next(iter(store.samples), None)
        if images is None and first is not None and first.size is not None:
            print("no pictures: --images DATA gives what was harvested")
        model = load_model(config.model, device=config.device) if config.model else None
        if model is not None:
            same_model(model, store)
        shown = asked or draw_latents(store, site, config.latents, config.seed)
        # The table of known concepts leads to their latents; the gallery stays a fair draw.
        also = [] if asked or evaluation is None else sorted({k.latent for k in evaluation.known})
        chosen = sorted({*shown, *also})
        texts = None
        if model is not None:
            # Where pictures alone were harvested, the world still knows their captions.
            stored = (s.text for s in store.samples if s.text)
            captions = list(islice(stored, _CAPTIONS)) or [
                item.caption for item in islice(world or (), _CAPTIONS)
            ]
            texts = _near(sae, model, captions, chosen, config.texts)
        with tqdm(total=len(chosen), unit=" pages", disable=None) as bar:
            written = latent_pages(
                sae, store, config.out, site=site, latents=shown, also=also, images=images,
                decode=None if model is None else decoder_of(model), texts=texts, runs=runs, top=config.top,
                evaluation=evaluation, facts=_trained(sae), how="as asked for" if asked else DRAWN,
                seed=config.seed, progress=lambda: bar.update(),
            )  # fmt: skip
    print(written)
    if evaluation is None:
        print(f"no figures beside nulls: {measured} is not there, `mmxai sae eval` writes it")
    return OK


def _runs(sae: str, others: Sequence[str]) -> dict[str, Series]:
    """Training curves by the shortest end of each folder's path that tells it from the others'."""
    from mmxai.report.sae import read_metrics

    folders = list(dict.fromkeys(Path(folder).resolve() for folder in (sae, *others)))
    found: dict[str, Series] = {}
    for folder in folders:
        lines = folder / METRICS
        if folder != folders[0] and not lines.exists():
            raise ArgumentError(
                f"--compare {folder}: got no {METRICS} there, expected the folder of a trained SAE"
            )
        if lines.exists():  # a converted SAE has none
            depth = next(n for n in range(1, len(folder.parts) + 1) if _alone(folder, folders, n))
            found["/".join(folder.parts[-depth:])] = read_metrics(lines)
    return found


def _alone(folder: Path, folders: Sequence[Path], depth: int) -> bool:
    return sum(other.parts[-depth:] == folder.parts[-depth:] for other in folders) == 1


def _trained(sae: SAE) -> dict[str, str]:
    known = sae.spec.identity.get("train")
    return {} if known is None else {"trained on": f"{known['rows']:,} rows"}


def _near(
    sae: SAE, model: Model, captions: Sequence[str], latents: Sequence[int], file: str | None
) -> NearTexts | None:
    """None, and a line that says why, where the model has no joint space and no texts were given."""
    from mmxai.methods.sae.texts import near_texts
    from mmxai.models.near_texts import JointPath, phrases

    reason = JointPath.missing(model, sae.spec.sites_out)
    if reason is not None and file is None:
        print(f"no nearest texts: {reason}")
        return None
    if file is not None:
        candidates = Path(file).read_text(encoding="utf-8").splitlines()
    else:
        candidates = phrases(captions)
        if len(candidates) < 2:
            print("no nearest texts: the store has no captions; --texts FILE gives candidates")
            return None
    found = near_texts(sae, model, [c.strip() for c in candidates if c.strip()], latents)
    print(found)
    return found
