"""One row space of a dissection: thresholds, then counts, of all its sites at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.concepts import Concepts
from mmxai.errors import ArgumentError, SelectionError
from mmxai.methods.dissect import bootstrap, composing, counts, curves, learning, thresholds
from mmxai.methods.dissect.bootstrap import Bootstrap
from mmxai.methods.dissect.composing import Masked
from mmxai.methods.dissect.config import DissectConfig
from mmxai.methods.dissect.controls import choose
from mmxai.methods.dissect.curves import Curves
from mmxai.methods.dissect.forms import Forms
from mmxai.methods.dissect.learning import Coarse, Fine
from mmxai.methods.dissect.levels import levels
from mmxai.methods.dissect.parts import Part, dissection
from mmxai.methods.dissect.passes import Cells, Labelling, Pairs, samples_of
from mmxai.methods.dissect.results import Dissection
from mmxai.methods.dissect.resume import State
from mmxai.methods.dissect.sources import ROTATED_MOST, Source
from mmxai.methods.dissect.tally import Adds, Seen, Tally, span_of
from mmxai.methods.dissect.thresholds import BLOCK_VALUES, Threshold
from mmxai.runs import stop_signals

if TYPE_CHECKING:
    from mmxai.store.reader import Store

Say = Callable[[str], object]

_ENTRIES = 64
"""Values a row of a site stored as topk is taken to have, when blocks are cut."""


class Space:
    """The sites of one row space: their labels are read once for all."""

    def __init__(
        self, store: Store, space: str, concepts: Concepts, config: DissectConfig, state: State,
        notes: list[str], say: Say,
    ):  # fmt: skip
        self.store, self.space, self.concepts, self.config = store, space, concepts, config
        self.state, self.notes, self.say = state, notes, say
        self.category = concepts.category_of()
        self.unannotated: dict[str | None, int] = {}
        self._sides: dict[str | None, Cells] = {}
        other = Pairs(samples_of(store), config.seed) if "shuffled" in config.controls else None
        self.labelling = Labelling(concepts, config.mode, other)

    def dissect(
        self, found: Mapping[str, Source], given: Mapping[str, torch.Tensor]
    ) -> dict[str, Dissection]:
        parts = [part for source in found.values() for part in self._parts(source)]
        done: dict[str, list[Part]] = {name: [] for name in found}
        for number, group in enumerate(self._groups(parts)):
            # Names of stages tell the space, for sites of several are of one run.
            stage = f"{self.space}.{number}"
            self._learn(stage, [p for p in group if p.site not in given])
            for part in group:
                self._thresholds(part, given.get(part.site))
            self._count(stage, group)
            self._compose(stage, group)
            for part in group:
                done[part.site].append(part)
        unknown = sum(self.unannotated.get(side, 0) for side in ("chosen", "scored"))
        return {
            name: dissection(name, held, self.concepts, self.config, unknown) for name, held in done.items()
        }

    def _parts(self, source: Source) -> Iterator[Part]:
        config = self.config
        keep = norm = None
        excluded = 0.0
        if config.high_norm is not None:
            at = source if config.norm_site is None else Source.of(self.store, config.norm_site)
            if at.units.site.space != self.space:
                raise ArgumentError(
                    f"norm_site: got {at.name!r} of the row space {at.units.site.space!r}, expected a site "
                    f"of {self.space!r}, the space of {source.name!r}"
                )
            keep, norm, excluded = thresholds.norm_filter(at, self._cells("chosen"), config)
        rotated = None
        if "rotated" in config.controls:
            if source.count <= ROTATED_MOST:
                rotated = source.rotated(config.seed)
            else:
                self.notes.append(
                    f"{source.name}: not rotated as a control, for it has {source.count:,} units, more than "
                    f"{ROTATED_MOST:,}"
                )
        most = max(1, config.bytes // self._bytes(rotated is not None))
        for start in range(0, source.count, most):
            stop = min(start + most, source.count)
            turned = None if rotated is None else rotated.range(start, stop)
            yield Part(source.name, source.range(start, stop), turned, keep, norm, excluded)

    def _bytes(self, rotated: bool) -> int:
        """What a unit takes while it is counted."""
        config, c, k = self.config, len(self.concepts), len(self.concepts.categories)
        sides = 2 if config.held_out else 1
        own = counts.bytes_of(c, k, config.correlation) * sides
        beside = counts.bytes_of(c, k, False) * sides * (rotated + ("shuffled" in config.controls))
        resampled = bootstrap.bytes_of(config.candidates, config.bootstrap)
        taken = own + beside + resampled
        if config.auprc:
            taken += curves.bytes_of(config.candidates, config.area)
        if config.rule == "f1":
            taken = max(taken, learning.bytes_of(c, k, config.candidates, config.area))
        if config.compose > 1:
            reach = self.store.plan.rows_per_sample[self.space]
            taken += composing.bytes_of(reach, min(config.compose_pictures, len(self.store.samples)), sides)
        return taken

    def _groups(self, parts: Sequence[Part]) -> Iterator[list[Part]]:
        """Parts that fit in memory together, in order."""
        group: list[Part] = []
        taken = 0
        for part in parts:
            own = part.own.count * self._bytes(part.rotated is not None)
            if group and taken + own > self.config.bytes:
                yield group
                group, taken = [], 0
            group.append(part)
            taken += own
        yield group

    def _cells(self, side: str | None) -> Cells:
        side = side if self.config.held_out else None
        if side not in self._sides:
            self._sides[side] = Cells(self.store, self.space, self.config.held_out, side)
        return self._sides[side]

    def _thresholds(self, part: Part, given: torch.Tensor | None) -> None:
        """On the pictures that labels are chosen on."""
        stage = f"{part.name}.threshold"
        kinds = ["own"] + (["rotated"] if part.rotated is not None else [])
        if (saved := self.state.read(stage)) is not None:
            how = {k: bytes(saved.arrays[f"{k}.how"]).decode() for k in kinds}
            part.thresholds = {k: Threshold(torch.from_numpy(saved.arrays[k]), how[k]) for k in kinds}
            return
        self.say(f"{part.site}: thresholds of units {part.own.start:,} to {part.own.stop - 1:,}")
        cells = self._cells("chosen")
        for kind in kinds:
            source = part.source(kind)
            if kind == "own" and given is not None:
                made = thresholds.given(given, source)
            elif kind == "own" and kind in part.thresholds:
                made = part.thresholds[kind]  # learned
            elif kind == "own" or (given is None and self._alike(source)):
                made = thresholds.find(source, cells, self.config, part.keep)
            else:
                own = part.thresholds["own"]
                made = thresholds.matched(source, part.own, own, cells, self.config, part.keep)
            part.thresholds[kind] = made
        arrays = {k: t.values.numpy() for k, t in part.thresholds.items()}
        told = {f"{k}.how": np.frombuffer(t.how.encode(), np.uint8) for k, t in part.thresholds.items()}
        self.state.write(stage, arrays | told, 0, True)

    def _learn(self, stage: str, group: Sequence[Part]) -> None:
        """Thresholds of best F1, of all units of a group at once."""
        config, k = self.config, len(self.concepts.categories)
        if config.rule != "f1" or not group:
            return
        for part in group:
            self._levels(part)
        # Below 0 the entries of sparse units do not tell what is in a mask: nearly everything.
        lowest = [0.0 if part.own.sparse else -np.inf for part in group]
        held = [_known(part.levels) for part in group]
        coarse = [
            Coarse(one.clamp(min=least), self.category, k) for one, least in zip(held, lowest, strict=True)
        ]
        self._pass(f"{stage}.coarse", "chosen", group, [{"own": one} for one in coarse])
        fine = []
        for one, least, first in zip(held, lowest, coarse, strict=True):
            candidates = first.candidates(config.area, config.candidates)
            fine.append(Fine(Curves(one, candidates, self.category, k, config.area), least))
        self._pass(f"{stage}.fine", "chosen", group, [{"own": one} for one in fine])
        for part, learned in zip(group, fine, strict=True):
            part.thresholds["own"] = learned.threshold()

    def _levels(self, part: Part) -> None:
        """Where curves of a part are taken."""
        if part.levels is not None:
            return
        stage = f"{part.name}.levels"
        saved = self.state.read(stage)
        if saved is not None:
            part.levels = torch.from_numpy(saved.arrays["levels"])
            return
        part.levels = levels(part.own, self._cells("chosen"), self.config, part.keep)
        self.state.write(stage, {"levels": part.levels.numpy()}, 0, True)

    def _alike(self, source: Source) -> bool:
        """Whether every unit is above its threshold in the same share of the cells."""
        return thresholds.rule_of(source, self.config) == "quantile" and not self.config.nonzero

    def _count(self, stage: str, group: Sequence[Part]) -> None:
        config = self.config
        apart = config.held_out > 0
        for part in group:
            part.chosen = self._tallies(part, full=not apart, first=part is group[0])
        self._pass(f"{stage}.chosen", "chosen", group, [p.chosen for p in group])
        self._some(group[0].chosen, "that labels are chosen on" if apart else "of the store")
        for part in group:
            part.candidates = choose(part.chosen["own"].counts, config.area, config.candidates)
        if apart:
            for part in group:
                part.scored = self._tallies(part, full=True, first=part is group[0])
                part.scored["own"].bootstrap = self._bootstrap(part)
                part.scored["own"].curves = self._curves(part)
            self._pass(f"{stage}.scored", "scored", group, [p.scored for p in group])
            self._some(group[0].scored, "held out")
        elif config.bootstrap or config.auprc:
            again = [
                {"own": self._tally(part, "own", bootstrap=self._bootstrap(part), curves=self._curves(part))}
                for part in group
            ]
            self._pass(f"{stage}.resampled", None, group, again)
            for part, tallies in zip(group, again, strict=True):
                part.chosen["own"].bootstrap = tallies["own"].bootstrap
                part.chosen["own"].curves = tallies["own"].curves
        last = [p.scored if apart else p.chosen for p in group]
        for tallies in last:
            tallies["own"].ceiling = tallies["own"].ceiling or last[0]["own"].ceiling

    def _some(self, tallies: Mapping[str, Tally], which: str) -> None:
        if not tallies["own"].counts.pictures:
            raise SelectionError(
                f"{self.space}: got no cell of a picture of which anything is known, among the pictures "
                f"{which}; expected annotated pictures there, and rows that are their cells"
            )

    def _compose(self, stage: str, group: Sequence[Part]) -> None:
        config = self.config
        if config.compose < 2:
            return
        stage = f"{stage}.forms"
        saved = self.state.read(stage)
        if saved is None:
            self.say(f"{stage}: forms of {sum(p.own.count for p in group):,} units")
            sides = [self._cells(side) for side in (("chosen", "scored") if config.held_out else (None,))]
            masked = [Masked(p.own, p.thresholds["own"].values, p.keep) for p in group]
            made = composing.compose(self.labelling, sides, config, masked, self._step(group))
            arrays = {
                f"{p.name}/{k}": v for p, f in zip(group, made, strict=True) for k, v in f.arrays().items()
            }
            self.state.write(stage, arrays, 0, True)
            for part, forms in zip(group, made, strict=True):
                part.forms = forms
            return
        for part in group:
            front = f"{part.name}/"
            held = {k.removeprefix(front): v for k, v in saved.arrays.items() if k.startswith(front)}
            part.forms = Forms.of_arrays(held)

    def _tallies(self, part: Part, full: bool, first: bool) -> dict[str, Tally]:
        config = self.config
        # What cells attain has nothing to do with units: it is found once, for the `first` part of a group,
        # unless parts leave out cells of their own.
        ceiling = full and (first or part.keep is not None)
        own = self._tally(part, "own", correlation=config.correlation, ceiling=ceiling, top=config.top)
        out = {"own": own}
        if "shuffled" in config.controls:
            out["shuffled"] = self._tally(part, "shuffled", other=True)
        if part.rotated is not None:
            out["rotated"] = self._tally(part, "rotated")
        return out

    def _tally(self, part: Part, kind: str, **options: Any) -> Tally:
        threshold = part.thresholds["rotated" if kind == "rotated" else "own"].values
        return Tally(part.source(kind), threshold, self.category, len(self.concepts.categories), **options)

    def _bootstrap(self, part: Part) -> Bootstrap | None:
        config = self.config
        if not config.bootstrap:
            return None
        assert part.candidates is not None
        return Bootstrap(
            part.candidates, self.category, len(self.concepts.categories), config.bootstrap, config.seed,
            config.area,
        )  # fmt: skip

    def _curves(self, part: Part) -> Curves | None:
        config = self.config
        if not config.auprc:
            return None
        assert part.candidates is not None
        self._levels(part)
        return Curves(
            _known(part.levels), part.candidates, self.category, len(self.concepts.categories), config.area
        )

    def _pass(
        self, stage: str, side: str | None, group: Sequence[Part], tallies: Sequence[Mapping[str, Adds]]
    ) -> None:
        """Go through the pictures of one side, adding to `tallies`, by the source they are of, a part after
        another."""
        saved, start, unknown = self.state.read(stage), 0, 0
        if saved is not None:
            start, unknown = saved.position, int(saved.arrays["unannotated"][0])
            for part, own in zip(group, tallies, strict=True):
                for kind, tally in own.items():
                    front = f"{part.name}/{kind}/"
                    held = {k.removeprefix(front): v for k, v in saved.arrays.items() if k.startswith(front)}
                    tally.restore(held)
            if saved.finished:
                self.unannotated[side] = unknown
                return
        total = len(self.store.rows[self.space])
        pictures = since = 0
        spans = self.labelling.spans(self._cells(side), self._step(group), start)
        with stop_signals() as signals, closing(spans):
            for span in spans if start < total else ():
                views = span_of(span)
                unknown += len({v.sample for v in span.views if v.own is None})
                if views:
                    self._add(group, tallies, views)
                pictures, since, start = pictures + len(span.views), since + len(span.views), span.done
                if since >= self.config.save_every or signals:
                    self._save(stage, group, tallies, start, unknown, False)
                    self.say(f"{stage}: {pictures:,} pictures, row {start:,} of {total:,}")
                    since = 0
                if signals:
                    raise KeyboardInterrupt
        self.unannotated[side] = unknown
        self._save(stage, group, tallies, start, unknown, True)

    def _add(self, group: Sequence[Part], tallies: Sequence[Mapping[str, Adds]], views: list) -> None:
        for part, own in zip(group, tallies, strict=True):
            for source in ("own", "rotated"):
                here = [t for kind, t in own.items() if (kind == "rotated") == (source == "rotated")]
                if not here:
                    continue
                of = part.source(source)
                sparse = of.sparse and all(t.least >= 0 for t in here)
                seen = Seen.of(of, views, sparse, part.keep)
                if source == "own" and not self.config.correlation:  # whose sums would tell
                    seen.finite(of.name)
                for tally in here:
                    tally.add(seen)

    def _save(
        self, stage: str, group: Sequence[Part], tallies: Sequence[Mapping[str, Adds]], start: int,
        unknown: int, finished: bool,
    ) -> None:  # fmt: skip
        arrays = {
            f"{part.name}/{kind}/{name}": value
            for part, own in zip(group, tallies, strict=True)
            for kind, tally in own.items()
            for name, value in tally.arrays().items()
        }
        self.state.write(stage, arrays | {"unannotated": np.array([unknown])}, start, finished)

    def _step(self, group: Sequence[Part]) -> int:
        widest = max(
            _ENTRIES if p.own.sparse and p.rotated is None else max(p.own.units.site.width, p.own.count)
            for p in group
        )
        return max(1, BLOCK_VALUES // widest)


def _known(levels: torch.Tensor | None) -> torch.Tensor:
    assert levels is not None
    return levels
