"""Sites probed together: one pass over their training items, one over their test items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

from mmxai.linalg._threads import spread
from mmxai.linalg.gram import FoldedGram
from mmxai.linalg.leace import Leace, leace
from mmxai.methods.probe.bootstrap import Bootstrap
from mmxai.methods.probe.choosing import Choice, HeldOut
from mmxai.methods.probe.closed import Linear
from mmxai.methods.probe.columns import Columns
from mmxai.methods.probe.controls import hashed
from mmxai.methods.probe.design import TEST, Cohort, Design
from mmxai.methods.probe.erasers import Erasers
from mmxai.methods.probe.mdl import Codelength, online_codes
from mmxai.methods.probe.memory import budget, in_closed_form
from mmxai.methods.probe.options import PENALTIES, ProbeConfig
from mmxai.methods.probe.pooling import read_items
from mmxai.methods.probe.results import Score
from mmxai.methods.probe.scoring import Fitted, score_site
from mmxai.methods.probe.site_probes import (
    Chunks,
    LogisticProbes,
    Probes,
    closed_probes,
    method_of,
    rows_probe,
    scatter,
    times,
)

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_SENT = 14  # key of the order in which labels are sent


@dataclass
class _Held:
    """Of one cohort at one site while rows stream: moments of what is fitted in closed form, and kept
    items."""

    gram: FoldedGram | None
    kept: torch.Tensor
    filled: int = 0

    def take(self, x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor, keep: np.ndarray) -> None:
        if self.gram is not None:
            self.gram.update(x, y, fold)
        self.kept[self.filled : self.filled + len(keep)] = _rows(x, keep)
        self.filled += len(keep)


class _Made(NamedTuple):
    """The first fields of `Fitted`, but for what it is of."""

    probe: Linear
    choice: Choice
    penalty: float
    at_edge: bool
    converged: bool


class _Probed(NamedTuple):
    """A cohort at one site; single: products of most of its rows were in float32."""

    fitted: list[Fitted]
    erasers: dict[str, Leace]
    single: bool


@dataclass
class Group:
    """`sites` of one row space. After `train` there are `fitted[site][cohort]`, after `test` scores.

    threads: on which sites stand side by side, or, where sites are fewer, the folds of each; BLAS has one
    thread meanwhile, and what is found is the same on any number. Logistic regression has torch's threads.
    """

    store: Store
    design: Design
    config: ProbeConfig
    sites: Sequence[str]
    threads: int = 1
    fitted: dict[str, list[list[Fitted]]] = field(default_factory=dict)
    erasers: Erasers = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    """Sites where products of most rows were taken in float32."""

    def __post_init__(self) -> None:
        self._columns = [Columns(c.known) for c in self.design.cohorts]
        # What is fitted from moments, and what from rows that stream again and again.
        self._closed, self._iterated = (
            [
                Columns([k for k in c.known if in_closed_form(k, self.config) is w])
                for c in self.design.cohorts
            ]
            for w in (True, False)
        )
        iterated = any(columns.total for columns in self._iterated)
        self._by_site = not iterated and len(self.sites) >= min(self.threads, self.config.folds)
        self._inside = 1 if self._by_site else self.threads

    def train(self) -> None:
        """One pass over the training items of all sites, then the probes of each site."""
        held = {site: [self._hold(site, c) for c in range(len(self._columns))] for site in self.sites}
        for items, x in self._read(self.sites, test=False):
            for c, cohort in enumerate(self.design.cohorts):
                where, local = _places(cohort, items, cohort.fold != TEST)
                y = torch.from_numpy(self._closed[c].encode(where))
                fold = torch.from_numpy(cohort.fold[where])
                keep = np.flatnonzero(cohort.kept[where])
                given = [(held[site][c], _rows(x[site], local)) for site in self.sites]
                self._each(lambda pair: pair[0].take(pair[1], y, fold, keep), given)  # noqa: B023

        def fit(site: str) -> list[_Probed]:
            return [self._fit(site, c, one) for c, one in enumerate(held.pop(site))]

        for site, made in zip(self.sites, self._each(fit, self.sites), strict=True):
            self.fitted[site] = [one.fitted for one in made]
            self.erasers |= {(site, task): eraser for one in made for task, eraser in one.erasers.items()}
            if any(one.single for one in made):
                self.single.add(site)

    def test(self) -> list[Score]:
        """One pass over the test items."""
        scores = {
            site: [
                np.empty((int(c.measured.sum()), columns.total), np.float32)
                for c, columns in zip(self.design.cohorts, self._columns, strict=True)
            ]
            for site in self.sites
        }
        probes = {site: [_joined(f) for f in each] for site, each in self.fitted.items()}
        filled = [0] * len(self._columns)
        for items, x in self._read(self.sites, test=True):
            for c, cohort in enumerate(self.design.cohorts):
                where, local = _places(cohort, items, cohort.measured)
                for site in self.sites:
                    coef, intercept = probes[site][c]
                    found = times(_rows(x[site], local), coef) + intercept
                    scores[site][c][filled[c] : filled[c] + len(where)] = found.numpy()
                filled[c] += len(where)
        made = []
        config = self.config
        for c, cohort in enumerate(self.design.cohorts):
            boot = Bootstrap(cohort.samples[cohort.measured], config.bootstrap, config.seed)
            for site in self.sites:
                fitted = self.fitted[site][c]
                made += score_site(
                    site, cohort, fitted, scores[site][c], boot, config.method, config.confidence
                )
        return made

    def _each(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Side by side where that is how threads are used; else `work` uses them, one after another."""
        return spread(work, items, self.threads) if self._by_site else [work(item) for item in items]

    def _hold(self, site: str, c: int) -> _Held:
        cohort, columns, width = self.design.cohorts[c], self._closed[c], self.store[site].width
        gram = None
        if columns.total:
            train = int((cohort.fold != TEST).sum())
            # LDA divides by what classes leave, erasers by small variances: errors would grow.
            exact = self.config.erase or self.config.method == "lda"
            gram = FoldedGram(
                width, columns.total, self.config.folds, rows=train,
                product="float64" if exact else "auto",
                share=0.0 if self.config.absolute else min(self.config.penalties),
                threads=self._inside,
            )  # fmt: skip
        return _Held(gram, torch.empty(int(cohort.kept.sum()), width))

    def _read(
        self, sites: Sequence[str], *, test: bool
    ) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        wanted = np.zeros(self.design.items, bool)
        for cohort in self.design.cohorts:
            wanted[cohort.items[cohort.measured if test else cohort.fold != TEST]] = True
        return read_items(self.store, self.design, sites, wanted, self.config.batch)

    def _fit(self, site: str, c: int, held: _Held) -> _Probed:
        cohort, config = self.design.cohorts[c], self.config
        places = np.flatnonzero(cohort.kept)
        train = int((cohort.fold != TEST).sum())
        unit = 1.0 if config.absolute else scatter(held.kept) * train
        penalties = [p * unit for p in config.penalties]
        parts: list[tuple[Columns, Iterable[Probes]]] = []
        if held.gram is not None:
            columns = self._closed[c]
            closed = closed_probes(held.gram, columns, config.method, penalties, self._inside)
            parts.append((columns, closed))
        if (columns := self._iterated[c]).total:
            chunks = self._chunks(site, cohort)
            parts.append((columns, LogisticProbes(chunks, cohort, columns, penalties, config.folds)))
        made: dict[int, _Made] = {}
        for columns, probes in parts:
            out = HeldOut(held.kept, cohort.fold[places], places, columns.known)
            for fold, found in enumerate(probes):
                if fold < config.folds:
                    out.add(fold, found)
                    continue
                for k, probe in enumerate(found):
                    choice, known = out.choose(k, config.method), columns.known[k]
                    best = slice(choice.penalty, choice.penalty + 1)
                    none = method_of(known.task.kind, config.method) == "mean_difference"
                    made[id(known)] = _Made(
                        Linear(probe.coef[best].clone(), probe.intercept[best].clone()),
                        choice,
                        float("nan") if none else penalties[choice.penalty],
                        not none and choice.penalty in (0, len(penalties) - 1),
                        not isinstance(probes, LogisticProbes) or probes.done(k, choice.penalty),
                    )
        erasers = {}
        if config.erase and held.gram is not None:
            state = held.gram.total()
            for known, own in zip(cohort.known, self._closed[c].slices, strict=True):
                if known.control < 0:
                    erasers[known.of] = leace(state, own)
        codes = self._codes(cohort, self._columns[c], held.kept, places)
        fitted = [
            Fitted(known, *made[id(known)], code) for known, code in zip(cohort.known, codes, strict=True)
        ]
        return _Probed(fitted, erasers, held.gram is not None and held.gram.product == "float32")

    def _codes(
        self, cohort: Cohort, columns: Columns, kept: torch.Tensor, places: np.ndarray
    ) -> list[Codelength | None]:
        if not self.config.mdl:
            return [None] * len(cohort.known)
        # Samples in a drawn order, whole ones one after another: what a block teaches is of other samples.
        order = np.lexsort((places, hashed(cohort.samples[places], _SENT, self.config.seed)))
        fit = rows_probe(columns, PENALTIES if self.config.absolute else self.config.penalties)
        return online_codes(_rows(kept, order), places[order], columns, fit)

    def _chunks(self, site: str, cohort: Cohort) -> Chunks:
        """Training items of a cohort at one site, again and again: from memory where they fit in half of what
        may be used, else from the store."""

        def read() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
            for items, x in self._read([site], test=False):
                where, local = _places(cohort, items, cohort.fold != TEST)
                if len(where):
                    yield where, x[site].clone() if local is None else _rows(x[site], local)

        size = int((cohort.fold != TEST).sum()) * self.store[site].width * 4
        if size > budget(self.config):
            return read
        every = list(read())
        return lambda: every


def _places(cohort: Cohort, items: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Places in the cohort of those of its items that were read, and theirs among the read (None: all)."""
    low, high = np.searchsorted(cohort.items, (items[0], items[-1] + 1))
    where = low + np.flatnonzero(among[low:high])
    if len(where) == len(items):
        return where, None
    return where, np.searchsorted(items, cohort.items[where])


def _rows(x: torch.Tensor, which: np.ndarray | None) -> torch.Tensor:
    return x if which is None else torch.from_numpy(x.numpy().take(which, 0))


def _joined(fitted: list[Fitted]) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients float32 `[D, T]` and intercepts `[T]` of all the probes of a cohort."""
    coef = torch.cat([f.probe.coef[0] for f in fitted], 1)
    return coef.float(), torch.cat([f.probe.intercept[0] for f in fitted]).float()
