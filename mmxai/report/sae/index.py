"""The index of an SAE's pages: its dictionary as a whole, its training, and a gallery of latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mmxai.report import plots
from mmxai.report.html import environment, number, share
from mmxai.report.sae.entries import Gatherer
from mmxai.report.sae.evaluation import Figures
from mmxai.report.sae.training import Series, training_plots

if TYPE_CHECKING:
    from mmxai.methods.sae.model import SAE


def index_page(
    sae: SAE,
    gather: Gatherer,
    gallery: list[dict[str, Any]],
    *,
    title: str,
    how: str,
    runs: Mapping[str, Series],
    facts: Mapping[str, str],
    evaluation: Figures | None,
) -> str:
    """The HTML of an SAE's index; `gallery`: an entry a latent that has a page, `how` they were chosen."""
    spec, fired, rows = sae.spec, gather.survey.fired, gather.survey.rows
    alive, density = fired > 0, fired / max(1, rows)
    shown = {
        "architecture": spec.arch + (f", k {spec.k}" if spec.k is not None else ""),
        "reads": " + ".join(spec.sites_in),
        "latents": f"{spec.latents:,} (width {spec.width_in:,})",
        "rows": f"{rows:,}",
        "active a row": number(float(fired.sum()) / max(1, rows)),
        "never active": f"{int((~alive).sum()):,} ({share(float((~alive).mean()))})",
    }
    done, total = gather.store.parts
    if done != total:
        shown["parts encoded so far"] = f"{done:,} of {'?' if total is None else f'{total:,}'}"
    if spec.sites_out != spec.sites_in:
        shown["writes"] = " + ".join(spec.sites_out)
    return (
        environment()
        .get_template("sae_index.html")
        .render(
            title=title,
            figures=shown | dict(facts),
            notes=spec.notes,
            training=[p | {"svg": Markup(p["svg"])} for p in training_plots(runs)],
            runs=list(runs),
            evaluation=evaluation,
            density=Markup(_density_plot(density, alive)),
            dead=int((~alive).sum()),
            cloud=Markup(_cloud(gather, density)),
            gallery=gallery,
            pages=gather.survey.latents,
            how=how,
            texts=gather.texts,
        )
    )


def _density_plot(density: np.ndarray, alive: np.ndarray) -> str:
    """How many latents are active how often; the dead ones have no place on a logarithmic axis."""
    if not alive.any():
        return plots.histogram([0.1, 1], [0], x="no latent is active", log_x=True)
    logs = np.log10(density[alive])
    counts, edges = np.histogram(logs, bins=48, range=(np.floor(logs.min() - 1e-9), 0))
    return plots.histogram(
        (10.0**edges).tolist(), counts.tolist(), x="share of rows in which a latent is active", log_x=True,
        label=_percent, marks={"median": float(np.median(density[alive]))}, size=plots.WIDE,
    )  # fmt: skip


def _cloud(gather: Gatherer, density: np.ndarray) -> str:
    stats = gather.store.stats[gather.site.name]
    mean = stats.mean.double().numpy() / np.maximum(stats.positive.double().numpy(), 1e-300)
    links = {n: (f"latents/{n}.html", f"latent {n}") for n in gather.survey.latents}
    return plots.cloud(
        density, mean, names=("share of rows", "mean where active"), label=_percent, links=links
    )


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"
