"""The options of a dissection; `mmxai dissect`'s are generated from this dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, get_args

from mmxai.errors import ArgumentError

Mode = Literal["nearest", "bilinear"]
Area = Literal["everywhere", "annotated"]
Rule = Literal["auto", "quantile", "stats", "positive", "absolute", "f1"]

LONGEST = 3
"""Concepts of a logical form, at most."""

CONTROLS = ("rotated", "shuffled")
"""What can be counted beside a site from its own store; "untrained" needs another store."""


@dataclass(frozen=True)
class DissectConfig:
    sites: tuple[str, ...] = ("*",)
    """Sites or globs. Of globs, those whose rows are cells of pictures."""
    heads: int | None = None
    """Heads side by side in a row of a z site, each a unit by its norm. Default: as the store says; 0: none,
    columns one by one."""
    mode: Mode = "nearest"
    """What value a pixel has: its cell's (nearest), or one between those of the cells around it (bilinear, as
    NetDissect upsamples)."""
    area: Area = "everywhere"
    """Where a unit's area counts in an IoU: in every picture (davidbau/dissect), or in those alone that are
    annotated for the label's category (NetDissect-Lite)."""
    rule: Rule = "auto"
    """What makes a unit's mask. quantile: values above its top QUANTILE of the cells; stats: above the
    quantile that store.stats tells, of all rows of the site; positive: above 0; absolute: above ABSOLUTE; f1:
    above the value of best F1 with any concept, learned on the pictures that are not held out; auto: positive
    of latents and of sites stored as topk, else quantile."""
    quantile: float = 0.005
    """Share of the cells that a mask takes."""
    nonzero: bool = False
    """Take the quantile among a unit's values that are not 0."""
    exact: bool = False
    """Quantiles of all cells, in place of SKETCH_ROWS of them."""
    sketch_rows: int = 262_144
    """Cells that quantiles are taken of, drawn at random; at 0.5% their share is off by 0.014% in two of
    three units at most."""
    absolute: float = 0.0
    min_fired: int = 10
    """A unit above its threshold in fewer cells is listed apart, as rare (dead: in none)."""
    detector: float = 0.04
    """A unit is a detector of its label above this IoU."""
    held_out: float = 0.0
    """Share of the pictures, by a hash of their number, on which labels are scored and nothing is chosen; 0:
    labels are chosen and scored on all, as NetDissect does."""
    candidates: int = 5
    """Labels kept of each unit, best first."""
    bootstrap: int = 200
    """Poisson resamples of the pictures behind the intervals of candidates; 0: none. Where nothing is held
    out they take a pass of their own."""
    confidence: float = 0.95
    controls: tuple[str, ...] = CONTROLS
    """Counted beside every site: rotated (a random rotation of the units' values), shuffled (labels of other
    pictures). '' for none."""
    high_norm: float | None = None
    """Leave out cells whose norm is more than so many times the median (Darcet et al. 2024: 3 to 5)."""
    norm_site: str | None = None
    """The site whose norms those are; default: each site's own."""
    correlation: bool = True
    """Correlate activations with labels, beside counting masks."""
    auprc: bool = True
    """Area under the precision-recall curve of each unit with its candidates, over all thresholds."""
    compose: int = 1
    """Concepts in a logical form (AND, OR, NOT), at most; above 1 the best form of each unit is searched
    for."""
    compose_pictures: int = 1000
    """Pictures that forms are searched on, drawn at random, and as many held out that they are scored on."""
    top: int = 16
    """Pictures kept of each unit, those where it is highest."""
    memory: float = 2.0
    """GiB for counts and order statistics; what does not fit goes in further passes."""
    save_every: int = 2000
    """Pictures between two saves of a run's state."""
    seed: int = 0
    """Of the sketch, the rotation, the shuffling and the resamples."""

    def __post_init__(self) -> None:
        for name in ("sites", "controls"):
            value = getattr(self, name)
            made = (value,) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, name, tuple(v for v in made if v))

        def check(good: bool, name: str, expected: str) -> None:
            if not good:
                raise ArgumentError(f"dissect: got {name}={getattr(self, name)!r}, expected {expected}")

        check(bool(self.sites), "sites", "at least one")
        for name, kinds in (("mode", Mode), ("area", Area), ("rule", Rule)):
            check(getattr(self, name) in get_args(kinds), name, f"one of {get_args(kinds)}")
        check(set(self.controls) <= set(CONTROLS), "controls", f"some of {CONTROLS}")
        for name in ("sketch_rows", "min_fired", "candidates", "save_every", "compose_pictures"):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("bootstrap", "seed", "top"):
            check(getattr(self, name) >= 0, name, "0 or more")
        for name in ("quantile", "confidence"):
            check(0 < getattr(self, name) < 1, name, "a share between 0 and 1")
        for name in ("held_out", "detector"):
            check(0 <= getattr(self, name) < 1, name, "a share from 0, below 1")
        check(isfinite(self.absolute), "absolute", "a finite number")
        check(self.high_norm is None or self.high_norm > 1, "high_norm", "a factor above 1")
        check(self.norm_site is None or self.high_norm is not None, "norm_site", "a high_norm beside it")
        check(self.memory > 0, "memory", "more than 0 GiB")
        check(1 <= self.compose <= LONGEST, "compose", f"1 to {LONGEST} concepts")
        if self.high_norm is not None and self.mode == "bilinear":
            raise ArgumentError(
                "dissect: got high_norm with mode='bilinear', which interpolates between all cells; expected "
                "mode='nearest'"
            )
        if self.compose > 1 and (self.mode, self.area) != ("nearest", "everywhere"):
            raise ArgumentError(
                f"dissect: got compose={self.compose} with mode={self.mode!r}, area={self.area!r}, expected "
                "mode='nearest', whose masks are whole cells, and area='everywhere', for a form may be of "
                "several categories"
            )
        if self.rule == "f1" and not self.held_out:
            raise ArgumentError(
                "dissect: got rule='f1' with held_out=0, expected pictures to score on that thresholds were "
                "not learned on, such as held_out=0.2"
            )

    @property
    def bytes(self) -> int:
        return int(self.memory * (1 << 30))

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
