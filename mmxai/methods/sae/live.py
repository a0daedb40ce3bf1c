"""Training from a running model, for those who will never keep the store.

Samples come in an order permuted by the seed and the epoch; their rows fill a buffer of bounded size (a
window), which is shuffled, dealt out in batches and filled anew. So (epoch, window's first sample, batch) is
the whole state: a run that goes on captures its window again, and the batches are the same, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from mmxai.capture.select import Selection
from mmxai.data import Source, load_samples, open_data
from mmxai.errors import ArgumentError, CheckpointError, SelectionError
from mmxai.methods.sae.config import TrainConfig
from mmxai.methods.sae.data import Acts, check_finite
from mmxai.store.permute import Permutation
from mmxai.store.select import SPLITS, split_of

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.inputs import Encoded

SHARES = (0.8, 0.1, 0.1)  # of the samples, as a store's splits have them


class LiveOrigin:
    """The sites of `model` over `data` (what `open_data` takes; samples must have numbers).

    buffer: rows held of each site; memory is that times the sites' widths times 4 bytes. batch_size: samples
    a forward pass; the same gives the same bytes. workers: threads that decode. context: cuts texts to so
    many tokens.
    """

    together = True

    def __init__(
        self,
        model: Model,
        data: Any,
        *,
        buffer: int = 1 << 18,
        batch_size: int = 32,
        workers: int = 2,
        context: int | None = None,
    ):
        for name, value in (("buffer", buffer), ("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise ArgumentError(f"live: got {name}={value}, expected at least 1")
        source = open_data(data)
        if not isinstance(source, Source):
            raise ArgumentError(
                f"live: got a {type(source).__name__}, whose samples have no numbers, expected data that can "
                "be indexed: without, a run could not go on where it stopped"
            )
        self.model, self.source = model, source
        self.buffer, self.batch_size, self.workers = buffer, batch_size, workers
        if context is not None:
            for tower in model.towers:
                if model.modality(tower) == "text":
                    model.set_texts(tower, context=context, long="truncate")
        if not model.towers:  # a wrapped network learns its shapes from the first sample
            model.collate([model.encode(source[0], [])])

    def resolve(self, patterns: Sequence[str]) -> list[str]:
        return self.model.resolve(patterns)

    def width_of(self, site: str) -> int:
        return self.model.width_of(site)

    def space_of(self, site: str) -> str:
        return self.model.space_of(site)

    def identity(self) -> dict[str, Any]:
        found = {"live": True, "model": self.model.identity, "data": self.source.identity}
        return dict(json.loads(json.dumps(found)))  # as a checkpoint gives it back

    def feed(self, sites: Sequence[str], config: TrainConfig) -> LiveFeed:
        return LiveFeed(self, sites, config)


class LiveFeed:
    """Batches of a window at a time. Of each window fewer rows than a batch are left over, at random."""

    rows: int | None = None

    def __init__(self, origin: LiveOrigin, sites: Sequence[str], config: TrainConfig):
        spaces = {origin.space_of(site) for site in sites}
        if len(spaces) != 1:
            raise ArgumentError(f"live: got sites {list(sites)} of row spaces {sorted(spaces)}, expected one")
        if origin.buffer < config.batch:
            raise ArgumentError(
                f"live: got a buffer of {origin.buffer:,} rows, expected a batch of {config.batch:,} at least"
            )
        self._origin, self._sites, self._config = origin, list(sites), config
        self._space = spaces.pop()
        self._selection = Selection.parse(config.tokens)
        self._samples = np.arange(len(origin.source))
        if config.split is not None:
            self._samples = np.flatnonzero(split_of(self._samples, SHARES) == SPLITS.index(config.split))
        if not len(self._samples):
            raise SelectionError(f"live: no sample is left of {len(origin.source)} by split={config.split}")
        towers = {self._space.partition(".")[0]}
        known = origin.model.towers
        self._towers = [t for t in known if t in towers or not towers <= set(known)]
        self._held = {
            site: torch.empty((origin.buffer, origin.width_of(site)), device=config.device) for site in sites
        }
        self._epoch, self._first, self._batch = 0, 0, 0
        self._after = 0  # the sample with which the next window begins
        self._order: torch.Tensor | None = None
        self._barren = 0

    def next(self) -> Acts:
        size = self._config.batch
        while self._order is None or (self._batch + 1) * size > len(self._order):
            self._advance()
        assert self._order is not None
        rows = self._order[self._batch * size : (self._batch + 1) * size]
        self._batch += 1
        return {site: held[rows] for site, held in self._held.items()}

    def sample(self, rows: int) -> Acts:
        if self._order is None:
            self._fill()
        if self._order is None or not len(self._order):
            raise SelectionError(f"live: no row is left of the first samples by tokens={self._config.tokens}")
        return {site: held[self._order[:rows]] for site, held in self._held.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**self._identity(), "epoch": self._epoch, "first": self._first, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if differ := [k for k, v in self._identity().items() if state.get(k) != v]:
            raise CheckpointError(
                f"live: got a state that differs in {differ}, expected the same run; give --out"
            )
        self._epoch, self._first, self._batch = state["epoch"], state["first"], state["batch"]
        self._order = None  # the window is captured when the next batch is asked for

    def close(self) -> None:
        """Nothing runs between windows."""

    def _identity(self) -> dict[str, Any]:
        origin, config = self._origin, self._config
        return {
            "origin": origin.identity(), "sites": self._sites, "buffer": origin.buffer,
            "batch_size": origin.batch_size, "tokens": config.tokens, "split": config.split,
            "seed": config.seed,
        }  # fmt: skip

    def _advance(self) -> None:
        if self._order is not None:
            self._batch, self._first = 0, self._after
        if self._first >= len(self._samples):
            self._epoch, self._first = self._epoch + 1, 0
        self._fill()
        assert self._order is not None
        self._barren = 0 if len(self._order) >= self._config.batch else self._barren + 1
        if self._barren > 1 and self._first == 0:
            raise SelectionError(
                f"live: got windows of at most {len(self._order):,} rows by tokens={self._config.tokens}, "
                f"split={self._config.split}, expected a batch of {self._config.batch:,}; raise the "
                "buffer or lower the batch"
            )

    def _fill(self) -> None:
        """Captures the window that begins with sample `_first` of the epoch's order."""
        filled, sample = 0, self._first
        for batch, count in self._captured():
            rows = len(next(iter(batch.values())))
            if filled + rows > self._origin.buffer:
                break
            for site, x in batch.items():
                self._held[site][filled : filled + rows] = x
            filled, sample = filled + rows, sample + count
        if sample == self._first:
            raise ArgumentError(
                f"live: got a buffer of {self._origin.buffer:,} rows, which one forward pass of "
                f"{self._origin.batch_size} samples overfills; raise the buffer or lower the batch size"
            )
        check_finite({site: held[:filled] for site, held in self._held.items()})
        self._after = sample
        key = Permutation(filled, self._config.seed, self._epoch, self._first)
        self._order = torch.from_numpy(key(range(filled))).to(self._config.device)

    def _captured(self) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
        """Selected rows of one forward pass after another, and how many samples each was of."""
        origin = self._origin
        walk = Permutation(len(self._samples), self._config.seed, self._epoch)
        order = self._samples[walk(range(self._first, len(self._samples)))]
        loader = load_samples(
            origin.source,
            (int(i) for i in order),
            encode=lambda sample: origin.model.encode(sample, self._towers),
            workers=origin.workers,
            prefetch=max(4 * origin.workers, 2 * origin.batch_size),
        )
        waiting: list[Encoded] = []
        with loader:
            for _, item in loader:
                waiting.append(cast("Encoded", item))
                if len(waiting) == origin.batch_size:
                    yield self._rows(waiting), len(waiting)
                    waiting = []
            if waiting:
                yield self._rows(waiting), len(waiting)

    def _rows(self, samples: list[Encoded]) -> dict[str, torch.Tensor]:
        model = self._origin.model
        with torch.no_grad():
            run = model.run(model.collate(samples), capture=self._sites, stop=True)
        keep = self._selection.keep(run.rows[self._space])
        return {site: run.acts[site][keep.to(run.acts[site].device)].float() for site in self._sites}
