"""Sites side by side: the layer table and the histograms by layer, with the controls beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mmxai.report.dissect.histograms import by_layer

if TYPE_CHECKING:
    from mmxai.methods.dissect.results import Dissection


def colours_of(sites: Mapping[str, Dissection]) -> dict[str, int]:
    """Category -> number of its colour: those with most detectors first, so that they stand apart best."""
    totals: dict[str, int] = {}
    for one in sites.values():
        for category, labels in one.by_category().items():
            totals[category] = totals.get(category, 0) + sum(labels.values())
    order = sorted(totals, key=lambda category: -totals[category])
    return {category: k for k, category in enumerate(order)}


def controls_of(sites: Mapping[str, Dissection]) -> dict[str, str]:
    """Control -> what it is, in words."""
    return {name: c.how for one in sites.values() for name, c in one.controls.items()}


def table(sites: Mapping[str, Dissection]) -> list[dict[str, Any]]:
    """A row a site."""
    controls = controls_of(sites)
    return [
        {
            "site": name, "units": f"{one.units:,} {one.kind}s", "detectors": int(one.detectors().sum()),
            "labels": one.unique(), "mean": float(one.best.mean()) if one.units else 0.0,
            "aside": (int(one.dead.sum()), int(one.rare.sum())),
            "categories": {c: (len(labels), sum(labels.values())) for c, labels in one.by_category().items()},
            "controls": [
                None if (c := one.controls.get(control)) is None
                else (c.detectors(one.level), c.unique(one.level), c.level())
                for control in controls
            ],
        }
        for name, one in sites.items()
    ]  # fmt: skip


def plots(sites: Mapping[str, Dissection], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Labels that detectors have and detectors themselves, by layer and category: for each kind of site."""
    made = []
    for kind, own in _kinds(sites).items():
        found = [sites[name] for name in own]
        names, controls = list(own.values()), controls_of({n: sites[n] for n in own})
        for what in ("labels", "detectors"):
            unique = what == "labels"
            counts = [
                {c: len(v) if unique else sum(v.values()) for c, v in one.by_category().items()}
                for one in found
            ]
            lines: dict[str, list[int | None]] = {name: [] for name in controls}
            for one in found:
                for name, line in lines.items():
                    control = one.controls.get(name)
                    if control is None:
                        line.append(None)
                    else:
                        line.append(control.unique(one.level) if unique else control.detectors(one.level))
            name = "unique labels" if unique else "detectors"
            svg = Markup(by_layer(names, counts, lines, colours, "labels" if unique else "detectors"))
            made.append({"name": name, "kind": kind, "svg": svg})
    return made


def _kinds(sites: Mapping[str, Dissection]) -> dict[str, dict[str, str]]:
    """Kind of site -> site -> what its layer is called."""
    found: dict[str, dict[str, str]] = {}
    for name in sites:
        tower, _, rest = name.partition(".")
        block, _, kind = rest.partition(".")
        if block.isdecimal() and kind:
            found.setdefault(f"{tower} {kind}", {})[name] = block
        else:
            found.setdefault("", {})[name] = name.removeprefix("module:")
    return found
