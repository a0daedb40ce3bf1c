"""Everything a template shows of one latent, gathered from the survey, the statistics and the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mmxai.report import plots
from mmxai.report.examples import between
from mmxai.report.html import number as figure
from mmxai.report.html import share
from mmxai.report.sae.surveying import BINS, Drawn, Latent, Survey
from mmxai.report.units.gather import Examples

if TYPE_CHECKING:
    from mmxai.models.near_texts import NearTexts
    from mmxai.store.reader import Site, Store

_GALLERY, _GALLERY_TEXTS, _GALLERY_TOKENS = 6, 2, 4  # of each latent on the index
_SEARCHED = 2000  # characters of captions and tokens that a gallery's search looks at


@dataclass
class Gatherer:
    """What all pages of one SAE share."""

    examples: Examples
    survey: Survey
    notes: Mapping[int, str]
    texts: NearTexts | None

    @property
    def store(self) -> Store:
        return self.examples.units.store

    @property
    def site(self) -> Site:
        return self.examples.units.site

    def cards(
        self, latent: int, rows: Sequence[int], values: Sequence[float], most: int
    ) -> list[dict[str, Any]]:
        """The first `most` of `rows` that are of different samples, with the latent's `values` there."""
        scale = between(0, self.survey.latents[latent].maximum)
        return self.examples.cards(latent, rows, values, most, scale)

    def top(self, latent: int, most: int) -> list[dict[str, Any]]:
        """The samples in which the latent is highest."""
        rows, values = self._highest(latent)
        return self.cards(latent, rows.tolist(), values.tolist(), most)

    def _highest(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values, the highest first. A rare latent's list in the statistics ends in zeros."""
        stats = self.store.stats[self.site.name]
        rows, values = stats.topk_rows[latent], stats.topk_values[latent]
        there = (rows >= 0) & (values > 0)
        return rows[there].numpy(), values[there].numpy()

    def bands(self, latent: Latent, most: int) -> list[dict[str, Any]]:
        """Below the top: what rows drawn from each quarter of the latent's range look like."""

        def band(drawn: Drawn) -> dict[str, Any]:
            return {
                "low": drawn.low / max(latent.maximum, 1e-30),
                "high": drawn.high / max(latent.maximum, 1e-30),
                "share": drawn.size / max(1, latent.active),
                "size": drawn.size,
                "cards": self.cards(latent.latent, drawn.rows.tolist(), drawn.values.tolist(), most),
            }

        return [band(drawn) for drawn in latent.bands if drawn.size]

    def thumbs(self, latent: int) -> list[str]:
        """Small pictures of the samples in which any latent is highest; of a dead one there are none."""
        return self.examples.thumbs(self._highest(latent)[0])

    def tokens(self, latent: Latent) -> list[tuple[str, float, float]]:
        """(text, share of the latent's total, how often it is active there) of the tokens it is active on."""
        if (decode := self.examples.decode) is None:
            return []
        return [(decode(t.token_id), t.share, t.rate) for t in latent.tokens]


def figures(latent: Latent, rows: int, read_write: float | None) -> dict[str, str]:
    """The figures at the head of a latent's page."""
    shown = {
        "active in": f"{share(latent.active / max(1, rows))} of rows",
        "rows": f"{latent.active:,}",
        "maximum": figure(latent.maximum),
        "mean where active": figure(latent.mean) if latent.active else "none",
    }
    if read_write is not None:
        shown["encoder · decoder"] = f"cos {figure(read_write)}"
    return shown


def latent_plots(latent: Latent) -> list[dict[str, Any]]:
    """Histogram of the values; where on the grid; which token types. `name`, `svg`, `note` each."""
    edges = np.linspace(0, latent.maximum or 1, BINS + 1).tolist()
    made = [
        {
            "name": "values where active",
            "svg": Markup(
                plots.histogram(
                    edges, latent.histogram.tolist(), x="activation; rows on a logarithmic axis",
                    log_counts=True,
                    marks={"mean": latent.mean} if latent.active else None,
                )
            ),
            "note": "",
        }
    ]  # fmt: skip
    cells, kinds = latent.place.cells, latent.place.kinds
    if cells.size and cells.any():
        height, width = cells.shape
        made.append(
            {"name": f"where on the {height} × {width} grid", "svg": Markup(plots.cells(cells)), "note": ""}
        )
    if len(kinds) > 1:
        total = sum(kinds.values())
        told = ", ".join(f"{k} {share(n / total)}" for k, n in sorted(kinds.items(), key=lambda kn: -kn[1]))
        made[0]["note"] = f"rows: {told}"
    return made


def nearest_texts(texts: NearTexts | None, latent: int) -> dict[str, Any] | None:
    """Nearest texts with what random directions reach; None where there are none of this latent."""
    if texts is None or latent not in texts.units:
        return None
    best, null = texts.of(latent), texts.null_level(0.95)
    return {
        "best": best,
        "null": null,
        "median": texts.null_level(0.5),
        "directions": len(texts.null),
        "candidates": len(texts.texts),
        "how": texts.how,
        "exact": texts.exact,
        "highest": max([null, 1e-9, *(t.cosine for t in best)]),
    }


def gallery_entry(gather: Gatherer, number: int, cards: list[dict[str, Any]]) -> dict[str, Any]:
    """A latent on the index: its first examples, out of the `cards` of its page."""
    latent, texts = gather.survey.latents[number], nearest_texts(gather.texts, number)
    # What random directions would get as easily is no name, nor what is read past the blocks that follow.
    named = texts is not None and texts["exact"] and texts["best"][0].cosine > texts["null"]
    name = texts["best"][0] if texts is not None and named else None
    tokens = gather.tokens(latent)[:_GALLERY_TOKENS]
    pictures = [c for c in cards if c["picture"]][:_GALLERY]
    note = gather.notes.get(number, "")
    words = [note, name.text if name else "", *(t[0] for t in tokens), *(c["sample"].text for c in cards)]
    return {
        "latent": latent,
        "density": latent.active / max(1, gather.survey.rows),
        "note": note,
        "text": name,
        "tokens": tokens,
        "pictures": [c | {"picture": c["picture"].removeprefix(gather.examples.up)} for c in pictures],
        "texts": [c for c in cards if not c["picture"]][:_GALLERY_TEXTS],
        "search": " ".join(w for w in words if w).lower()[:_SEARCHED],
    }
