"""`neurons`: everything that a store tells of a site's units, in one streaming pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import SelectionError
from mmxai.methods.neurons.areas import Areas, bins_of, groups
from mmxai.methods.neurons.config import NeuronsConfig
from mmxai.methods.neurons.labels import RowLabels
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

    `labels`: of rows, for ROC-AUC, correlation and selectivity, in the same pass (AUCs of so many units and
    labels that `config.memory` does not hold their counts take further ones). What is drawn at random and
    correlated are rows read anew. Memory does not grow with the store but by 8 bytes a row.
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
            told.add(block)
        numbers.append(block.rows)
        samples += len(np.unique(block.who.sample.numpy()))
    every = np.concatenate(numbers)
    selectivity = None if told is None else told.finish(lambda: blocks(units, rows), say)
    told = None  # its counts go before the products of pairs come
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
            seed=config.seed, memory=config.memory,
        ),
        selectivity,
    )  # fmt: skip


class _Told:
    """Labels: sums of all units, and the counts behind the AUCs of those that memory holds at once."""

    def __init__(self, units: Units, labels: RowLabels, config: NeuronsConfig):
        self._labels, self._units, self._memory = labels, units, config.memory
        self._sums = LabelSums(units.count, len(labels.names))
        self._groups = groups(units.count, len(labels.names), config.memory)
        self._areas = self._of(self._groups[0])

    def _of(self, group: range) -> Areas:
        labels = len(self._labels.names)
        bins = bins_of(self._units.dtype, len(self._groups[0]), labels, self._memory)
        return Areas(group, labels, bins)

    def _known(self, block: Block) -> tuple[torch.Tensor, np.ndarray]:
        kept, found = self._labels.of(block.who)
        return block.values[torch.from_numpy(kept)], found

    def add(self, block: Block) -> None:
        x, found = self._known(block)
        self._sums.add(x, found)
        self._areas.add(x, found)

    def finish(self, again: Callable[[], Iterable[Block]], say: Say) -> Selectivity:
        if not self._sums.rows:
            raise SelectionError(
                f"{self._units.name}: got no row with a label among those looked at, expected some; see "
                "tokens, split and which samples the labels are of"
            )
        found = [self._areas.auc()]
        for group in self._groups[1:]:
            say(f"AUCs of units {group.start:,} to {group.stop - 1:,}: a further pass, for want of memory")
            self._areas = self._of(group)
            for block in again():
                self._areas.add(*self._known(block))
            found.append(self._areas.auc())
        auc, error = (np.concatenate(v) for v in zip(*found, strict=True))
        index, best = {}, {}
        for task, classes in self._labels.classes.items():
            selective, which = self._sums.class_selectivity(list(classes))
            index[task], best[task] = selective.numpy(), which.numpy()
        sums = self._sums
        return Selectivity(
            self._labels.names, self._labels.how, sums.rows, sums.positive.numpy(), auc, error,
            sums.correlation().numpy(), sums.selectivity().numpy(), index, best,
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
