"""`probe`: linear probes of every site, task, penalty, fold and control of a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmxai.errors import SelectionError
from mmxai.labels import Labels, read_labels
from mmxai.linalg.gram import SAFE
from mmxai.methods.probe.design import TEST, Design, make_design
from mmxai.methods.probe.directions import Direction, Directions
from mmxai.methods.probe.erasers import Erasers
from mmxai.methods.probe.group import Group
from mmxai.methods.probe.memory import groups
from mmxai.methods.probe.options import ProbeConfig
from mmxai.methods.probe.results import ProbeReport, Score
from mmxai.models import names

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_METHODS = {
    "ridge": "ridge classifier; probabilities by a temperature fitted on held-out folds",
    "lda": "linear discriminant analysis",
    "logistic": "logistic regression",
    "mean_difference": "difference of means; probabilities by a temperature fitted on held-out folds",
}


def probe(
    store: Store,
    labels: Labels | str | Path,
    config: ProbeConfig | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> ProbeReport:
    """Probe sites of a store for what `labels` know: each task at each site, beside its controls.

    labels: `Labels`, or what `mmxai.labels.read_labels` reads. say: hears what is being done.

    Samples are split by a hash of their number: a share `test` is measured on and seen by nothing else;
    penalties and temperatures come from inner folds of the rest. A row space is read once for training and
    once, its test items alone, for measuring; by logistic regression training items are read again where they
    do not fit in memory. Beside `config.memory` there are about 80 bytes a row for who it is, and 8 for each
    task and control.

    ArgumentError where a site alone takes more than that, before anything is read; SelectionError where
    nothing can be probed, UnknownSiteError for sites, NonFiniteError for NaN or inf.
    """
    config = config or ProbeConfig()
    if not isinstance(labels, Labels):
        labels = read_labels(labels, store)
    spaces: dict[str, list[str]] = {}
    for site in names.resolve_stored(config.sites, store.sites):
        spaces.setdefault(store[site].space, []).append(site)
    designs: dict[str, Design] = {}
    notes: list[str] = []
    for space in spaces:
        try:
            designs[space] = make_design(store, space, labels, config)
        except SelectionError as error:
            notes.append(f"{space}: {str(error).removeprefix('probe: ')}")
    if not designs:
        raise SelectionError("probe: " + "; ".join(notes))
    scores: list[Score] = []
    directions, erasers, single = Directions(), Erasers(), 0
    for space, design in designs.items():
        notes += design.notes
        for sites, threads in groups(store, design, config, spaces[space]):
            say(f"{len(sites)} sites of {space}: {design.items:,} items, {len(design.cohorts)} sets of tasks")
            group = Group(store, design, config, sites, threads)
            group.train()
            say("measuring")
            scores += group.test()
            _keep(group, directions)
            erasers |= group.erasers
            single += len(group.single)
    notes += _doubts(scores, config)
    if single:
        notes.append(
            f"X'X: products in float32, summed in float64, at {single} sites; by their first rows that "
            f"changes coefficients by less than {SAFE:g} of their length"
        )
    order = {site: i for i, site in enumerate(store.sites)}
    tasks = {(t.name, str(t.level)): i for i, t in enumerate(labels.tasks)}
    scores.sort(key=lambda s: (order[s.site], tasks[s.task, s.level]))
    return ProbeReport(
        _about(store, labels, designs, scores, config), config.to_json(), scores, list(dict.fromkeys(notes)),
        directions, erasers,
    )  # fmt: skip


def _keep(group: Group, directions: Directions) -> None:
    for site, cohorts in group.fitted.items():
        for fitted in (f for cohort in cohorts for f in cohort if f.known.control < 0):
            coef, intercept = fitted.probe.coef[0].T.float(), fitted.probe.intercept[0].float()
            task = fitted.known.task
            directions.add(Direction(site, task.name, task.names, coef.contiguous(), intercept))


def _doubts(scores: list[Score], config: ProbeConfig) -> list[str]:
    notes = []
    edge = sum(s.at_edge for s in scores)
    if edge and len(config.penalties) > 1:
        notes.append(f"penalty: {edge} of {len(scores)} probes took the smallest or largest candidate")
    if late := sum(not s.converged for s in scores):
        notes.append(
            f"logistic regression: {late} of {len(scores)} probes ended before they had converged, where the "
            "penalty that did best is small; their figures are those of a probe stopped early"
        )
    return notes


def _about(
    store: Store, labels: Labels, designs: dict[str, Design], scores: list[Score], config: ProbeConfig
) -> dict[str, str]:
    """What the figures are of, in words."""
    level = scores[0].level
    items = {"mean": "means of a sample's rows", "cls": "class tokens", "last": "last tokens"}.get(
        config.pool, "patches" if level == "cell" else "rows"
    )
    samples = [
        (len(np.unique(c.samples[c.fold != TEST])), len(np.unique(c.samples[c.measured])))
        for d in designs.values()
        for c in d.cohorts
    ]
    train, test = (max(s[i] for s in samples) for i in (0, 1))
    about = {
        "store": store.path.name,
        "labels": labels.about,
        "probed": f"{items} of {', '.join(designs)}",
    }
    if level == "cell":
        about["patches"] = f"have the label that covers at least {config.overlap:.0%} of them"
    about |= {
        "split": f"{train:,} samples to train, {test:,} to measure; penalties by {config.folds} inner folds",
        "probe": _METHODS[config.method],
        "intervals": f"{config.confidence:.0%}, {config.bootstrap:,} resamples of the test samples",
    }
    if config.controls and config.control != "none":
        about["controls"] = "labels drawn at random from the training items', the same for all of a type"
    if config.mdl:
        kept = max(int(c.kept.sum()) for d in designs.values() for c in d.cohorts)
        about["codelength"] = f"online code of ridge probes over {kept:,} training items"
    return about
