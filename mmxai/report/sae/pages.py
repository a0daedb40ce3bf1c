"""`latent_pages`: an SAE as a folder of pages, an index and one a latent, without outside resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.report.cards import Decode
from mmxai.report.html import environment
from mmxai.report.sae.entries import Gatherer, figures, gallery_entry, latent_plots, nearest_texts
from mmxai.report.sae.evaluation import Figures
from mmxai.report.sae.index import index_page
from mmxai.report.sae.near import Neighbour, by_activity, by_direction, encoder_cosine
from mmxai.report.sae.surveying import draw_latents, survey
from mmxai.report.sae.training import Series
from mmxai.report.units.folder import clear, write
from mmxai.report.units.gather import Examples
from mmxai.report.units.pictures import PictureFiles
from mmxai.store.units import Units

if TYPE_CHECKING:
    from mmxai.methods.sae.model import SAE
    from mmxai.models.near_texts import NearTexts
    from mmxai.store.reader import Store

DRAWN = "drawn at random among those ever active"


@dataclass(frozen=True)
class LatentPages:
    """What `latent_pages` wrote."""

    index: Path
    latents: list[int]
    nbytes: int

    def __str__(self) -> str:
        return f"{len(self.latents):,} latents, {self.nbytes / 1e6:.1f} MB: {self.index}"


def latent_pages(
    sae: SAE,
    store: Store,
    out: str | Path,
    *,
    site: str | None = None,
    latents: int | Sequence[int] = 64,
    also: Sequence[int] = (),
    images: Callable[[int], Image.Image] | None = None,
    decode: Decode | None = None,
    texts: NearTexts | None = None,
    runs: Mapping[str, Series] | None = None,
    facts: Mapping[str, str] | None = None,
    evaluation: Figures | None = None,
    notes: Mapping[int, str] | None = None,
    title: str | None = None,
    top: int = 24,
    neighbours: int = 8,
    seed: int = 0,
    how: str | None = None,
    progress: Callable[[], object] | None = None,
) -> LatentPages:
    """Write `out`/index.html and `out`/latents/<n>.html, and return what was written.

    `store`: of latents, as `mmxai sae encode` makes it; `site`: which of its sites (default: the only one
    stored as topk). `latents`: so many drawn at random among those ever active, or which; `also`: further
    ones that get pages and no place in the gallery. `images`: sample index -> the original picture.
    `decode`: token id -> its text. `texts`: nearest texts of the latents (`methods.sae.texts.near_texts`).
    For the index: `runs`, name -> training curves (`read_metrics`); `facts`, further figures; `evaluation`,
    its tables (`read_evaluation`). `notes`: what to say of a latent, by default the known concept that it
    tells best. `how`: how the latents were chosen, in words, where the caller chose them. `progress` is
    called after each page. Pages of latents that an earlier call wrote there, and this one does not, are
    removed.
    """
    name = site or latents_site(store)
    if top < 1 or neighbours < 1 or (isinstance(latents, int) and latents < 1):
        raise ArgumentError(
            f"latent_pages: got top={top}, neighbours={neighbours}, latents={latents}, expected at least 1"
        )
    if store[name].width != sae.spec.latents:
        raise ArgumentError(
            f"{name}: is {store[name].width} wide, the SAE has {sae.spec.latents} latents; "
            "expected the store that this SAE was encoded to"
        )
    drawn = isinstance(latents, int)
    shown = set(draw_latents(store, name, latents, seed) if isinstance(latents, int) else latents)
    chosen = sorted(shown.union(also))
    found = survey(store, name, chosen, draws=2 * _drawn(top), seed=seed)
    out = Path(out)
    clear(out / "latents", chosen)
    files = PictureFiles(out, images)
    if notes is None:
        notes = {} if evaluation is None else evaluation.notes()
    gather = Gatherer(Examples(Units(store, name), files, decode), found, notes, texts)
    title = title or f"{sae.spec.arch} SAE of {' + '.join(sae.spec.sites_in)}"
    page = _LatentPage(sae, gather, chosen, title, top, neighbours)
    nbytes, gallery = 0, []
    for at, latent in enumerate(chosen):
        cards = gather.top(latent, top)
        nbytes += write(out / "latents" / f"{latent}.html", page.html(at, cards))
        if latent in shown:
            gallery.append(gallery_entry(gather, latent, cards))
        if progress is not None:
            progress()
    html = index_page(
        sae, gather, gallery, title=title, how=how or (DRAWN if drawn else "chosen by the caller"),
        runs=runs or {}, facts=facts or {}, evaluation=evaluation,
    )  # fmt: skip
    nbytes += write(out / "index.html", html)
    return LatentPages(out / "index.html", chosen, nbytes + files.nbytes)


def latents_site(store: Store) -> str:
    """The only site of the store that is stored as topk; ArgumentError where that does not tell."""
    names = [s.name for s in store.plan.sites if s.dtype == "topk"]
    if len(names) != 1:
        raise ArgumentError(
            f"{store.path}: got topk sites {names}, expected one; name the site of the latents, "
            "which `mmxai sae encode` writes"
        )
    return names[0]


def _drawn(top: int) -> int:
    """Examples of each quarter of a latent's range, beside `top` of its highest."""
    return max(4, top // 3)


class _LatentPage:
    """The page of each latent of `order`."""

    def __init__(
        self, sae: SAE, gather: Gatherer, order: list[int], title: str, top: int, neighbours: int
    ) -> None:
        self._sae, self._gather, self._order, self._title = sae, gather, order, title
        self._drawn, self._neighbours = _drawn(top), neighbours
        self._shown = set(order)
        self._near = by_direction(sae.W_dec, order, neighbours)
        self._reading = encoder_cosine(sae.W_enc, sae.W_dec, order)

    def html(self, at: int, cards: list[dict[str, Any]]) -> str:
        order, gather, found = self._order, self._gather, self._gather.survey
        latent = found.latents[order[at]]
        active = by_activity(
            self._sae.W_dec, latent.latent, latent.together, found.fired, found.rows, self._neighbours
        )
        template = environment().get_template("sae_latent.html")
        return template.render(
            title=self._title,
            latent=latent,
            note=gather.notes.get(latent.latent, ""),
            previous=order[at - 1] if at else None,
            following=order[at + 1] if at + 1 < len(order) else None,
            figures=figures(latent, found.rows, self._reading[at]),
            plots=latent_plots(latent),
            texts=nearest_texts(gather.texts, latent.latent),
            tokens=gather.tokens(latent),
            cards=cards,
            bands=gather.bands(latent, self._drawn),
            near=[self._entry(n) for n in self._near[latent.latent]],
            active=[self._entry(n) for n in active],
        )

    def _entry(self, near: Neighbour) -> dict[str, Any]:
        thumbs = self._gather.thumbs(near.latent)
        return {"near": near, "thumbs": thumbs, "page": near.latent in self._shown}
