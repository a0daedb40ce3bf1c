"""`dissect`: thresholds in one pass over a store, counts in another, whatever the number of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmxai.concepts import Concepts
from mmxai.errors import ArgumentError, DataError
from mmxai.methods.dissect.config import DissectConfig
from mmxai.methods.dissect.controls import Control
from mmxai.methods.dissect.passes import samples_of
from mmxai.methods.dissect.results import Dissection, Dissections
from mmxai.methods.dissect.resume import State, held
from mmxai.methods.dissect.sources import sources
from mmxai.methods.dissect.space import Say, Space

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_FREE = ("save_every", "detector", "min_fired", "confidence")
"""Options that a run may go on with others of."""

_DIGESTS = 256  # samples compared between a store and that of the untrained model


def dissect(
    store: Store,
    concepts: Concepts,
    config: DissectConfig | None = None,
    *,
    state: str | Path | None = None,
    untrained: Store | None = None,
    given: Mapping[str, torch.Tensor] | None = None,
    say: Say = lambda what: None,
) -> Dissections:
    """Label the units of sites by the concepts that their masks fit best (Bau et al. 2017).

    A unit's mask is where its value is above its threshold, pixel by pixel of the label maps; every pair of
    unit and concept is counted, in one pass over the store beside the one that finds thresholds, and in
    memory that does not grow with it. state: a folder where the run is kept as it goes on, to be taken up
    again; Ctrl-C then saves it. untrained: a store of the same sites and data of the model with random
    weights, as a control. given: thresholds of some sites, float32 `[U]` each, found elsewhere.
    """
    config = config or DissectConfig()
    found = sources(store, config.sites, config.heads)
    notes: list[str] = []
    kept = dict(given or {})
    if unknown := set(kept) - set(found):
        raise ArgumentError(f"dissect: got thresholds of {sorted(unknown)}, expected some of {list(found)}")
    settings = {
        "store": store.view.identity, "concepts": concepts.identity,
        "config": {k: v for k, v in config.to_json().items() if k not in _FREE},
        "given": {k: hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for k, v in kept.items()},
    }  # fmt: skip
    folder = None if state is None else Path(state)
    made: dict[str, Dissection] = {}
    with held(folder):
        saved = State(folder, settings)
        for space in dict.fromkeys(s.units.site.space for s in found.values()):
            here = {name: s for name, s in found.items() if s.units.site.space == space}
            made |= Space(store, space, concepts, config, saved, notes, say).dissect(here, kept)
    if untrained is not None:
        same_data(store, untrained)
        beside = replace(
            config, controls=(), bootstrap=0, candidates=1, top=0, correlation=False, auprc=False, compose=1
        )
        where = None if folder is None else folder / "untrained"
        theirs = dissect(untrained, concepts, replace(beside, sites=tuple(made)), state=where, say=say)
        for name, one in theirs.sites.items():
            how = f"the same site of the untrained model, mask above {one.how}"
            often = one.fired >= one.min_fired
            made[name].controls["untrained"] = Control("untrained", how, one.label, one.best, often)
    about = {"store": store.path.name, "concepts": concepts.about}
    if concepts.licence:
        about["licence of the annotations"] = concepts.licence
    return Dissections(about, config.to_json(), {name: made[name] for name in found}, notes)


def same_data(store: Store, other: Store) -> None:
    """DataError where two stores were not harvested from the same samples."""
    mine, theirs = set(samples_of(store).tolist()), set(samples_of(other).tolist())
    shown = sorted(mine & theirs)[:_DIGESTS]
    differ = [s for s in shown if store.samples[s].hash != other.samples[s].hash]
    if mine != theirs or differ:
        what = (
            f"sample {differ[0]} is another" if differ else f"{len(mine ^ theirs)} samples are in one alone"
        )
        raise DataError(
            f"{other.path}: got a store of other data than {store.path} ({what}), expected the same samples"
        )
