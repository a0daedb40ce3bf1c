"""Look at the single units of a site: neurons (mlp_post), heads (z), residual dimensions, an SAE's latents.

All but --model needs the store alone: exemplars, density, kurtosis, near-duplicates, and with --labels how
well every unit tells every label. --labels: a CSV file sample,label or sample,x0,y0,x1,y1,label (boxes in
pixels of the original pictures), a folder of masks, or one of `mmxai shapes`; a shapes world that was
harvested is known without it. --model adds what units contribute to the output, and what goes without them.

examples:
  mmxai neurons acts.zarr --site vision.3.mlp_post --data pictures/ --labels boxes.csv
  mmxai neurons acts.zarr --site text.2.z --heads 8 --model gpt2/ --data texts.txt
  mmxai neurons acts.zarr --site vision.3.mlp_post --model clip/ --data pictures/ --ablate red
  mmxai neurons acts.zarr --site vision.3.mlp_post --match other.zarr --match-site vision.5.mlp_post
  mmxai neurons latents.zarr --site vision.5.resid_post.sae --model clip/ --sae sae/ --data pictures/
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.methods.neurons.config import NeuronsConfig

if TYPE_CHECKING:
    from mmxai.labels import Labels
    from mmxai.methods.neurons import RowLabels
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store
    from mmxai.store.units import Units


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store."""
    site: str
    """The site whose units are looked at."""
    out: str = "neurons"
    """Folder for the pages, and for neurons.json, all that was found."""
    labels: str | None = None
    """LABELS, a file or folder of labels."""
    tasks: tuple[str, ...] = ()
    """Which columns of the labels; default: all."""
    multilabel: tuple[str, ...] = ()
    """Columns of LABELS with several labels a sample, `|` between them or a row each."""
    level: Literal["sample", "cell"] | None = None
    """Labels of samples or of patches; default: of patches where there are both."""
    overlap: float = 0.5
    """A patch has a label that covers at least so much of it."""
    units: int = 64
    """How many units have pages, drawn at random; beside them, of each label, the one that tells it best."""
    only: str = ""
    """Which units have pages, in place of a draw: numbers with commas between."""
    top: int = 16
    """Examples a page, as far as so many were kept (--exemplars)."""
    data: str | None = None
    """The data set that was harvested, for its pictures and for --model."""
    model: str | None = None
    """The model that was harvested: decodes tokens, says what units contribute, and is run without them."""
    sae: str | None = None
    """Of a store of latents the folder of their SAE, which --model needs to run with and without them."""
    text: tuple[str, ...] = ()
    """Texts whose cosine with a CLIP's pictures units contribute to; default: the --ablate label. (Of a
    language model it is the next token's logit, and by gradient the next-token loss.)"""
    ablate: str | None = None
    """A label: the units that tell it best are ablated one after another, beside random ones."""
    by: Literal["auc", "correlation", "selectivity"] = "correlation"
    """What tells best: correlation weighs how much a unit says, AUC only in which order."""
    how: Literal["zero", "mean", "resample", "scale"] = "mean"
    """What becomes of ablated units; resample: values of other rows; scale: times --factor."""
    factor: float = 2.0
    """Of --how scale."""
    ablated: int = 32
    """The most units ablated at once."""
    sets: int = 5
    """Random sets of each size."""
    live_samples: int = 256
    """Samples that --model runs on."""
    device: str | None = None
    """Where the model runs."""
    match: str | None = None
    """Another store of the same samples, to match units with."""
    match_site: str | None = None
    """Its site; without --match of this store, so of another block or tower. Default: the same site."""
    match_by: Literal["row", "max", "mean"] = "max"
    """Row by row, where rows correspond, or by the largest or mean value over each sample's rows."""
    match_tokens: str | None = None
    """Token types of the other side, as --tokens; default: the same within a tower, all of another."""
    survey: NeuronsConfig = field(default_factory=NeuronsConfig)


def run(config: Config) -> int:
    from tqdm import tqdm

    from mmxai.cli._harvested import world_of
    from mmxai.cli._neurons_live import Live, fed, live, plot_of
    from mmxai.cli._shown import decoder_of, numbers_of, pictures_of, same_model
    from mmxai.methods.neurons import match, neurons
    from mmxai.models import load_model
    from mmxai.report.neurons import choose, unit_pages
    from mmxai.store import open_store
    from mmxai.store.units import Units

    asked = numbers_of(config.only)
    if min(config.units, config.top, config.ablated, config.sets, config.live_samples) < 1:
        raise ArgumentError(
            "neurons: --units, --top, --ablated, --sets and --live-samples must be at least 1"
        )
    if config.multilabel and config.labels is None:
        raise ArgumentError("--multilabel: got no --labels, expected the file whose columns these are")
    for option in ("ablate", "sae", "text"):
        if getattr(config, option) and config.model is None:
            raise ArgumentError(f"--{option}: got no --model, expected the model that was harvested")
    out = Path(config.out)
    with ExitStack() as held:
        store = held.enter_context(open_store(config.store))
        units = Units(store, config.site, config.survey.heads)
        if wrong := [u for u in asked if not 0 <= u < units.count]:
            raise ArgumentError(f"--only: got {wrong}, expected some from 0 to {units.count - 1}")
        other = _other(config, store, held)
        world = world_of(store, config.data)
        labels = _labels(config, store, world)
        if config.ablate is not None:
            _known(config.ablate, labels)
        images = pictures_of(config.data or world, store)
        model = load_model(config.model, device=config.device) if config.model else None
        feed = None
        if model is not None:
            same_model(model, store)
            feed = fed(model, store, config, world)
        out.mkdir(parents=True, exist_ok=True)  # told now if it cannot be
        found = neurons(store, config.site, config.survey, labels, _say)
        print(found)
        seen = Live() if model is None or feed is None else live(model, store, found, world, config, feed)
        if other is not None:
            _say(f"matching with {other.name}")
            seen.matches = match(
                units, other, config.match_by, config.survey.tokens, config.survey.split,
                b_tokens=_their_tokens(config, other), memory=config.survey.memory, seed=config.survey.seed,
            )  # fmt: skip
            seen.results["matches"] = seen.matches
            seen.plots.append(plot_of(seen.matches))
        for result in seen.results.values():
            print(f"\n{result}")
        shown, how = (asked, "as asked for") if asked else choose(found, config.units, config.survey.seed)
        with tqdm(total=len(shown), unit=" pages", disable=None) as bar:
            written = unit_pages(
                found, store, out, shown, heads=config.survey.heads, images=images,
                decode=None if model is None else decoder_of(model), panels=seen.panels(shown),
                plots=seen.plots, how=how, top=config.top, progress=lambda: bar.update(),
            )  # fmt: skip
    seen.save(out)
    print(f"\n{written}\nall figures: {found.save(out / 'neurons.json')}", end="")
    print("".join(f", {name}.json" for name in seen.results))
    return OK


def _say(what: str) -> None:
    print(f"... {what}", flush=True)


def _labels(config: Config, store: Store, world: ShapesWorld | None) -> RowLabels | None:
    """Labels of the file, or of the world that was harvested; None where nothing is known."""
    from mmxai.labels.reading import read_labels
    from mmxai.labels.world import WorldLabels
    from mmxai.methods.neurons import RowLabels

    if config.labels is not None:
        known: Labels = read_labels(config.labels, store, multilabel=config.multilabel)
    elif world is not None:
        known = WorldLabels(world)
    else:
        return None
    return RowLabels.of_labels(
        known, store, store[config.site].space, level=config.level, tasks=config.tasks or None,
        overlap=config.overlap,
    )  # fmt: skip


def _other(config: Config, store: Store, held: ExitStack) -> Units | None:
    """The units to match with, of another store or another site."""
    from mmxai.store import open_store
    from mmxai.store.units import Units

    if config.match is None and config.match_site is None:
        return None
    there = store if config.match is None else held.enter_context(open_store(config.match))
    return Units(there, config.match_site or config.site)


def _their_tokens(config: Config, other: Units) -> str | None:
    if config.match_tokens is not None:
        return config.match_tokens
    same = other.name.partition(".")[0] == config.site.partition(".")[0]
    return config.survey.tokens if same else None


def _known(label: str, labels: RowLabels | None) -> None:
    """ArgumentError where there is no such label, before anything is read."""
    names = () if labels is None else labels.names
    if label not in names:
        near = get_close_matches(label, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        there = ", ".join(names) or "none without --labels"
        raise ArgumentError(f"--ablate: got {label!r}, expected a label{hint}; there are: {there}")
