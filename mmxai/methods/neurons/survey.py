"""`neurons`: everything that a store tells of a site's units, in one streaming pass (AUCs need a second)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.methods.neurons.config import NeuronsConfig
from mmxai.methods.neurons.labels import RowLabels
from mmxai.methods.neurons.ranks import Ranks, groups, key_bits
from mmxai.methods.neurons.redundancy import redundancy
from mmxai.methods.neurons.results import Neurons, Selectivity
from mmxai.methods.neurons.strata import strata
from mmxai.methods.neurons.tallies import LabelSums, Moments4, PlaceMeans, TypeMeans
from mmxai.methods.neurons.top import Exemplars
from mmxai.store.units import Block, RowBlocks, Units, blocks
from mmxai.types import TOKEN_TYPES

if TYPE_CHECKING:
    from mmxai.store.reader import Store

Say = Callable[[str], object]

_IMAGE, _TEXT = ("patch", "image"), ("text", "generated")


def neurons(
    store: Store,
    site: str,
    config: NeuronsConfig | None = None,
    labels: RowLabels | None = None,
    say: Say = lambda what: None,
) -> Neurons:
    """Survey the units of `site`: neurons, heads (of a `z` site), residual dimensions or latents alike.

    `labels`: of rows, for ROC-AUC, correlation and selectivity; those take one further pass, or more where
    `config.memory` is small. Memory does not grow with the store but by 8 bytes a row.
    """
    config = config or NeuronsConfig()
    units = Units(store, site, config.heads)
    space = units.site.space
    rows = RowBlocks(store, space, config.tokens, config.split)
    moments, types, places = Moments4(units.count), TypeMeans(units.count), PlaceMeans(units.count)
    exemplars = Exemplars(units.count, config.exemplars)
    told = None if labels is None else _Told(units, labels, config)
    numbers, samples = [], 0
    say(f"{site}: one pass over {units}")
    for block in blocks(units, rows):
        moments.add(block)
        types.add(block)
        places.add(block)
        exemplars.add(block)
        if told is not None:
            told.first(block)
        numbers.append(block.rows)
        samples += len(np.unique(block.who.sample.numpy()))
    every = np.concatenate(numbers)
    selectivity = None if told is None else told.finish(lambda: blocks(units, rows), say)
    say(f"{site}: rows at random, and correlations of units")
    return Neurons(
        site, units.kind, len(every), samples,
        moments.mean.numpy(), moments.var.sqrt().numpy(), moments.low.double().numpy(),
        moments.high.double().numpy(), moments.density.numpy(), moments.kurtosis.numpy(),
        _by_type(types), _by_place(places), _modality(types, moments),
        exemplars.rows.where.T.contiguous().numpy(), exemplars.rows.values.T.contiguous().numpy(),
        exemplars.samples.where.T.contiguous().numpy(), exemplars.samples.values.T.contiguous().numpy(),
        strata(units, every, config.drawn, config.seed),
        redundancy(
            units, every, rows=config.redundancy_rows, level=config.duplicate, near=config.near,
            seed=config.seed,
        ),
        selectivity,
    )  # fmt: skip


class _Told:
    """Labels: sums in the first pass; ranks of a group of units counted in one pass and added in the next."""

    def __init__(self, units: Units, labels: RowLabels, config: NeuronsConfig):
        self._labels, self._units = labels, units
        self.sums = LabelSums(units.count, len(labels.names))
        self._groups = groups(units.count, config.memory)
        self._bits = key_bits(units.dtype, len(self._groups[0]), config.memory)
        self._counting: Ranks | None = self._ranks(0)

    def _ranks(self, group: int) -> Ranks | None:
        if group >= len(self._groups):
            return None
        return Ranks(self._groups[group], len(self._labels.names), self._units.dtype, self._bits)

    def _known(self, block: Block) -> tuple[torch.Tensor, np.ndarray]:
        kept, found = self._labels.of(block.who)
        return block.values[torch.from_numpy(kept)], found

    def first(self, block: Block) -> None:
        x, found = self._known(block)
        self.sums.add(x, found)
        if self._counting is not None:
            self._counting.count(x)

    def finish(self, again: Callable, say: Say) -> Selectivity:
        names, shape = self._labels.names, (self._units.count, len(self._labels.names))
        auc, error = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        for number in range(len(self._groups)):
            ranking, self._counting = self._counting, None
            assert ranking is not None  # one was made for each group
            following = self._ranks(number + 1)
            say(f"ranks of units {ranking.units.start:,} to {ranking.units.stop - 1:,}")
            for block in again():
                x, found = self._known(block)
                ranking.rank(x, found)
                if following is not None:
                    following.count(x)
            self._counting = following
            own = slice(ranking.units.start, ranking.units.stop)
            auc[own], error[own] = (v.numpy() for v in ranking.auc(self.sums.positive))
        index, best = {}, {}
        for task, classes in self._labels.classes.items():
            selective, which = self.sums.class_selectivity(list(classes))
            index[task], best[task] = selective.numpy(), which.numpy()
        return Selectivity(
            names, self._labels.how, self.sums.rows, self.sums.positive.numpy(), auc, error,
            self.sums.correlation().numpy(), self.sums.selectivity().numpy(), index, best,
        )  # fmt: skip


def _by_type(types: TypeMeans) -> dict[str, np.ndarray]:
    return {name: mean.numpy() for name in TOKEN_TYPES for n, mean in (types.over(name),) if n}


def _by_place(places: PlaceMeans) -> np.ndarray | None:
    return None if (means := places.means()) is None else means.numpy()


def _modality(types: TypeMeans, moments: Moments4) -> np.ndarray | None:
    (seen, image), (read, text) = types.over(*_IMAGE), types.over(*_TEXT)
    if not seen or not read:
        return None
    spread = moments.var.sqrt()
    return torch.where(spread > 0, (image - text) / spread.clamp(min=1e-300), 0).numpy()
