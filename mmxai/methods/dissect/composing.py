"""Logical forms for the units of a row space: masks and labels of a bounded number of pictures, all held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.dissect.atoms import Atoms, Pieces, pieces_of
from mmxai.methods.dissect.beam import Search
from mmxai.methods.dissect.forms import Forms, encode
from mmxai.methods.dissect.passes import Cells, Labelling, View, place_of, samples_of
from mmxai.methods.dissect.sources import Source
from mmxai.methods.dissect.tally import Seen
from mmxai.methods.dissect.thresholds import Keep
from mmxai.models.geometry import pixel_cells

if TYPE_CHECKING:
    from mmxai.methods.dissect.config import DissectConfig


@dataclass(frozen=True)
class Masked:
    """Units of a source, above their `threshold`; `keep`: which rows count at all."""

    source: Source
    threshold: torch.Tensor
    keep: Keep | None


@dataclass(frozen=True)
class Held:
    """Pictures side by side: their atoms, and of each source the `masks` of its units, eight cells a byte,
    uint8 `[U, cells / 8]`, and the cells that count (bool `[cells]`, None: all)."""

    atoms: Atoms
    masks: list[np.ndarray]
    kept: list[np.ndarray | None]
    pictures: int

    def of(self, at: int) -> Atoms:
        """The atoms that count for one source."""
        kept = self.kept[at]
        return self.atoms if kept is None else self.atoms.within(kept)

    def mask(self, at: int, unit: int) -> np.ndarray:
        """bool `[cells]`."""
        return np.unpackbits(self.masks[at][unit]).view(bool)


def compose(
    labelling: Labelling, sides: Sequence[Cells], config: DissectConfig, sources: Sequence[Masked], step: int
) -> list[Forms]:
    """The forms of each source's units, searched for on the pictures of the first of `sides` and scored on
    those of the last. `step`: rows of a block."""
    held = [hold(labelling, cells, config, sources, step) for cells in sides]
    return [_forms([(one.of(at), one) for one in held], at, config) for at in range(len(sources))]


def _forms(held: Sequence[tuple[Atoms, Held]], at: int, config: DissectConfig) -> Forms:
    (atoms, first), (theirs, last) = held[0], held[-1]
    search, scoring = Search(atoms, config.compose), Search(theirs, config.compose)
    units = len(first.masks[at])
    terms, values = np.full((units, config.compose), -1), np.zeros((2, units))
    for unit in range(units):
        found = search.best(first.mask(at, unit))
        terms[unit] = encode(found[0], config.compose)
        mask = last.mask(at, unit)
        values[:, unit] = [scoring.iou(mask, form) for form in found]
    return Forms(terms, values[0], values[1], last.pictures)


def hold(
    labelling: Labelling, cells: Cells, config: DissectConfig, sources: Sequence[Masked], step: int
) -> Held:
    """Pictures of a side, `config.compose_pictures` drawn at random; those without annotation count
    nowhere."""
    only = _drawn(cells, config)
    pieces: list[Pieces] = []
    masks: list[list[np.ndarray]] = [[np.zeros((one.source.count, 0), np.uint8)] for one in sources]
    kept: list[list[np.ndarray]] = [[np.zeros(0, bool)] for _ in sources]
    first = taken = 0
    pictures = set()
    plain = replace(labelling, other=None)
    with closing(plain.spans(replace(cells, only=only), step)) as spans:
        for span in spans:
            views = [v for v in span.views if v.own is not None]
            if not views:
                continue
            start = first
            for view in views:
                pieces.append(_pieces(cells, view, start))
                start += len(view.rows)
                pictures.add(view.sample)
                taken += _bytes(pieces[-1], len(labelling.concepts))
            if taken > config.bytes:
                raise ArgumentError(
                    f"compose: got labels of {len(pictures):,} pictures that take more than memory="
                    f"{config.memory} GiB, expected fewer; use fewer pictures than compose_pictures="
                    f"{config.compose_pictures}, or more memory"
                )
            rows = -(-(start - first) // 8) * 8  # whole bytes
            for one, own, there in zip(sources, masks, kept, strict=True):
                own.append(_above(one, views, rows))
                if one.keep is not None:
                    beside = one.keep(np.concatenate([v.rows for v in views]))
                    there.append(np.pad(beside, (0, rows - len(beside))))
            first += rows
    return Held(
        Atoms.joined(pieces, len(labelling.concepts), first),
        [np.concatenate(own, 1) for own in masks],
        [None if one.keep is None else np.concatenate(k) for one, k in zip(sources, kept, strict=True)],
        len(pictures),
    )


def _drawn(cells: Cells, config: DissectConfig) -> np.ndarray:
    """Samples of a side, ascending."""
    every = samples_of(cells.store)
    every = np.sort(every[cells.of_side(every)])
    order = np.random.default_rng(config.seed).permutation(len(every))
    return np.sort(every[order[: config.compose_pictures]])


def _pieces(cells: Cells, view: View, start: int) -> Pieces:
    """The atoms of a view whose first row is cell number `start`."""
    assert view.own is not None
    height, width = view.tile["grid"]
    number = np.full(height * width, -1)
    number[view.place] = start + np.arange(len(view.place))
    labels = view.own.labels
    _, size = place_of(cells.store, cells.space, view.sample, view.image)
    rows, cols = pixel_cells(view.tile, size, labels.shape)
    return pieces_of(labels, rows, cols, number.reshape(height, width))


def _above(one: Masked, views: Sequence[View], rows: int) -> np.ndarray:
    """The masks of views side by side, uint8 `[U, rows / 8]`."""
    sparse = one.source.sparse and bool((one.threshold >= 0).all())
    seen = Seen.of(one.source, views, sparse)
    out = np.zeros((rows, one.source.count), bool)
    for own, above in _by_view(seen, one.threshold):
        out[own] = above
    return np.packbits(out, axis=0).T


def _by_view(seen: Seen, threshold: torch.Tensor) -> Iterator[tuple[slice, np.ndarray]]:
    """bool `[T, U]` of each view; of codes no more is made dense at once."""
    for _, own in seen:
        x = seen.part(own)
        yield own, ((x if isinstance(x, torch.Tensor) else x.dense()) > threshold).numpy()


def _bytes(own: Pieces, concepts: int) -> int:
    """What the atoms of a picture take while those of all are joined."""
    held = own.cell.nbytes + own.pixels.nbytes + own.starts.nbytes + own.concept.nbytes
    return 2 * held + concepts * len(own.cell) // 8


def bytes_of(rows_per_sample: int, pictures: int, sides: int) -> int:
    """Bytes a unit."""
    return sides * pictures * -(-rows_per_sample // 8)
