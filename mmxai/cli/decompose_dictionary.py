"""Fit dictionaries of directions to sites of a store, and compare them on held-out samples: reconstruction,
sparsity, stability over seeds; with SAEs of the same site in the same table (--sae).

OUT/SITE has a folder a dictionary, decompose.json, codes.zarr (the codes as a store, which `mmxai neurons`
and `mmxai probe` take as any other) and pages. Units are named by the labels (--labels) or words of the
captions that go with their activation; of a CLIP (--model) by their nearest texts.

examples:
  mmxai decompose dictionary acts.zarr --sites vision.5.resid_post --units 64
  mmxai decompose dictionary acts.zarr --sites 'vision.*.mlp_post' --kinds nmf --negative clip --no-pages
  mmxai decompose dictionary acts.zarr --sites vision.5.resid_post --sae sae/vision.5.resid_post
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.methods.decompose.config import KINDS, FitConfig, Kind
from mmxai.methods.decompose.run import DEFAULT, EVALUATED

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.labels import Truth
    from mmxai.methods.decompose import Dictionary, Entry
    from mmxai.methods.decompose.run import DecomposeReport
    from mmxai.models import Model
    from mmxai.models.near_texts import NearTexts
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store

CODES, PAGES = "codes.zarr", "pages"
_CAPTIONS = 100_000  # looked through for candidate texts


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store of activations."""
    sites: tuple[str, ...]
    """Sites or globs, each taken apart by itself."""
    kinds: tuple[Kind, ...] = DEFAULT
    """Which dictionaries. NMF needs values of 0 or more."""
    fit: FitConfig = field(default_factory=FitConfig)
    seeds: int = 1
    """Further fits of each kind, for stability."""
    sae: tuple[str, ...] = ()
    """Folders of SAEs that the table has beside; their stability is that of `nulls/seed`, where
    `mmxai sae eval` left one."""
    evaluated: int = EVALUATED
    """Most rows of held-out samples that figures are taken from."""
    labels: str | None = None
    """Labels of samples: a CSV of sample,label, or the folder that `mmxai shapes` wrote. Default: the
    captions' words."""
    images: str | None = None
    """The data set that was harvested, for its pictures."""
    model: str | None = None
    """The model that was harvested: decodes tokens; of a CLIP, names directions by their nearest texts."""
    texts: str | None = None
    """A text file, a candidate a line; default: words and short runs of words of the captions."""
    out: str = "decomposition"
    """Folder; each site has its own in it."""
    pages: bool = True
    """Write the codes and the pages."""
    top: int = 6
    """Examples of each end of a unit."""
    device: str | None = None
    """Where the model runs."""


def run(config: Config) -> int:
    from mmxai.cli._harvested import world_of
    from mmxai.cli._shown import pictures_of, same_model
    from mmxai.kernels.capture import MOST
    from mmxai.methods.decompose import decompose
    from mmxai.models import load_model, names
    from mmxai.store import open_store

    if not 1 <= config.top <= MOST:
        raise ArgumentError(f"--top: got {config.top}, expected between 1 and {MOST}")
    if config.texts is not None and not Path(config.texts).is_file():
        raise ArgumentError(f"--texts {config.texts}: no such file, expected a candidate a line")
    with open_store(config.store) as store:
        sites = names.resolve_stored(config.sites, store.sites)
        model = load_model(config.model, device=config.device) if config.model else None
        if model is not None:
            same_model(model, store)
        world = world_of(store, config.images)
        pictures = pictures_of(config.images or world, store) if config.pages else None
        truth = _truth(config, store, world)
        saes = _saes(config, sites)
        for site in sites:
            out = Path(config.out) / site
            _clear(out, config.kinds)
            report = decompose(
                store, site, config.kinds, config.fit, seeds=config.seeds, others=saes.get(site), truth=truth,
                out=out, evaluated=config.evaluated, say=lambda what: print(f"... {what}", flush=True),
            )  # fmt: skip
            print(report)
            texts = {} if model is None else _near(model, report, store, world, config.texts)
            for kind, near in texts.items():
                near.save(out / kind / "texts.json")
            if config.pages:
                print(_pages(report, store, out, config, model, pictures, texts))
            print(f"\nwritten to {out}\n")
    return OK


def _truth(config: Config, store: Store, world: ShapesWorld | None) -> Truth | None:
    """What is known of the samples; None, and a line that says so, where nothing is."""
    from mmxai.labels import Truth, read_labels
    from mmxai.labels.concepts import caption_truth, label_truth
    from mmxai.methods.decompose.names import FEWEST, candidates, drawn_samples

    if config.labels is not None:
        return label_truth(read_labels(config.labels, store))
    reason = f"there are {len(store.samples)} samples"
    if len(store.samples) >= 2 * FEWEST:
        if world is not None:
            return Truth.of_world(world)
        reason = "the samples have no captions"
        if any(sample.text for sample in islice(store.samples, _CAPTIONS)):
            truth = caption_truth(store)
            if len(candidates(truth.present(drawn_samples(store, seed=config.fit.seed)))):
                return truth
            reason = "the captions tell no samples apart"
    print(f"no names by activation: {reason}; --labels FILE gives labels")
    return None


def _saes(config: Config, sites: Sequence[str]) -> dict[str, dict[str, Entry]]:
    """Site -> entries of its SAEs, by the name of their folder."""
    from mmxai.methods.decompose import Entry
    from mmxai.methods.sae import load_sae
    from mmxai.methods.sae.overlap import directions
    from mmxai.methods.sae.rows import selection_of

    found: dict[str, dict[str, Entry]] = {}
    for folder in config.sae:
        sae = load_sae(folder)
        site, name = sae.spec.sites_in[0], f"sae {Path(folder).name}"
        if sae.spec.kind != "sae" or sae.spec.needs_input or site not in sites:
            raise ArgumentError(
                f"--sae {folder}: got a {sae.spec.kind} of {', '.join(sae.spec.sites_in)}, expected an SAE "
                f"of one of {', '.join(sites)}, whose reconstruction needs no more than its codes"
            )
        if name in found.get(site, {}):
            raise ArgumentError(f"--sae {folder}: got two folders of that name, expected different ones")
        twin = Path(folder) / "nulls" / "seed"
        again = (directions(load_sae(twin)),) if twin.is_dir() else ()
        notes = [] if again else ["no stability: `mmxai sae eval --nulls seed` trains another seed"]
        rows = selection_of(sae.spec, None)["tokens"]
        if rows != config.fit.tokens:
            notes.append(f"trained on {rows or 'all'} tokens, figures are of {config.fit.tokens or 'all'}")
        found.setdefault(site, {})[name] = Entry(sae, directions(sae), again, note="; ".join(notes))
    return found


def _clear(out: Path, kinds: Sequence[Kind]) -> None:
    """Remove what an earlier run said of dictionaries that are about to be replaced."""
    from mmxai.store.snapshot import load_plan

    codes = out / CODES
    if codes.exists():
        if "dictionaries" not in load_plan(codes).identity:
            raise ArgumentError(f"{codes}: is no store of codes that this command made; give another --out")
        shutil.rmtree(codes)
    pages = [out / PAGES / f"{name}.html" for name in ("index", *KINDS)]
    for stale in (out / "decompose.json", *pages, *(out / kind / "texts.json" for kind in kinds)):
        stale.unlink(missing_ok=True)


def _near(
    model: Model, report: DecomposeReport, store: Store, world: ShapesWorld | None, file: str | None
) -> dict[str, NearTexts]:
    """Nearest texts of every dictionary's directions; none, and a line that says why, where there can be
    none."""
    from mmxai.models.near_texts import JointPath, near_texts, phrases

    site = report.comparison.site
    reason = JointPath.missing(model, [site])
    if reason is not None and file is None:
        print(f"no nearest texts: {reason}")
        return {}
    if file is not None:
        candidates = [c.strip() for c in Path(file).read_text(encoding="utf-8").splitlines() if c.strip()]
    else:
        stored = (s.text for s in store.samples if s.text)
        # Where pictures alone were harvested, the world still knows their captions.
        captions = list(islice(stored, _CAPTIONS)) or [i.caption for i in islice(world or (), _CAPTIONS)]
        candidates = phrases(captions)
    if len(candidates) < 2:
        print("no nearest texts: the store has no captions; --texts FILE gives candidates")
        return {}
    harvested = ",".join(store.plan.identity.get("selection", {}).get("tokens") or ())

    def of(one: Dictionary) -> NearTexts:
        return near_texts(model, site, one.directions, candidates, tokens=one.tokens or harvested)

    found = {kind: of(one) for kind, one in report.dictionaries.items()}
    for kind, near in found.items():
        print(f"{kind}: {near}")
    return found


def _pages(
    report: DecomposeReport,
    store: Store,
    out: Path,
    config: Config,
    model: Model | None,
    pictures: Callable[[int], Image.Image] | None,
    texts: Mapping[str, NearTexts],
) -> str:
    from mmxai.cli._shown import decoder_of
    from mmxai.methods.decompose import encode_store
    from mmxai.report.decompose import dictionary_pages
    from mmxai.store import open_store

    path = encode_store(list(report.dictionaries.values()), store, out / CODES, exemplars=max(16, config.top))
    with open_store(path) as codes:
        written = dictionary_pages(
            report, codes, out / PAGES, images=pictures,
            decode=None if model is None else decoder_of(model), texts=texts, top=config.top,
        )  # fmt: skip
    return str(written)
