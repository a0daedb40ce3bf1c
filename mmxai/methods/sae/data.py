"""Where training's batches come from: a store, or (`live`) a model as it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.methods.sae.config import TrainConfig
from mmxai.models import names
from mmxai.store import Store

Acts = Mapping[str, torch.Tensor]


class Feed(Protocol):
    """Endless batches: site -> float32 `[batch, width]`. It goes on exactly from its `state_dict`, JSON."""

    rows: int | None
    """Rows of one pass over the data, where that is known."""

    def next(self) -> Acts: ...

    def sample(self, rows: int) -> Acts:
        """About that many of the rows, for scales and centres; the batches to come are not touched."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Origin(Protocol):
    """What can be trained on."""

    together: bool
    """Whether sites are cheaper in one pass than apart."""

    def resolve(self, patterns: Sequence[str]) -> list[str]: ...

    def width_of(self, site: str) -> int: ...

    def space_of(self, site: str) -> str: ...

    def identity(self) -> dict[str, Any]:
        """JSON: what the activations are of."""

    def feed(self, sites: Sequence[str], config: TrainConfig) -> Feed: ...


class StoreOrigin:
    """The sites of a store."""

    together = False

    def __init__(self, store: Store):
        self.store = store

    def resolve(self, patterns: Sequence[str]) -> list[str]:
        return names.resolve_stored(patterns, self.store.sites)

    def width_of(self, site: str) -> int:
        return self.store[site].width

    def space_of(self, site: str) -> str:
        return self.store[site].space

    def identity(self) -> dict[str, Any]:
        plan = self.store.plan
        return {"store": self.store.path.name, "snapshot": self.store.view.identity, **plan.identity}

    def feed(self, sites: Sequence[str], config: TrainConfig) -> StoreFeed:
        return StoreFeed(self.store, sites, config)


class StoreFeed:
    """Rows of a store, shuffled anew each epoch, of the samples of one split. Full batches only."""

    def __init__(self, store: Store, sites: Sequence[str], config: TrainConfig):
        self._store, self._sites, self._config = store, list(sites), config
        self._loader = self._make(epochs=None)
        batches = len(self._make(epochs=1))
        if batches == 0:
            raise ArgumentError(
                f"sae train: got fewer rows of {', '.join(sites)} than a batch of {config.batch:,} "
                f"(tokens={config.tokens}, split={config.split}), expected one batch at least; lower --batch"
            )
        self.rows: int | None = batches * config.batch

    def next(self) -> Acts:
        batch = next(self._loader)
        check_finite(batch)
        return batch

    def sample(self, rows: int) -> Acts:
        loader = self._make(epochs=1)
        count = max(1, min(len(loader), rows // self._config.batch))
        taken: list[Acts] = []
        with loader:
            for _ in range(count):
                batch = next(loader)
                check_finite(batch)
                # A loader's memory is used again once nobody holds the batch: what is kept is a copy.
                taken.append({site: batch[site].clone() for site in self._sites})
        return {site: torch.cat([acts[site] for acts in taken]) for site in self._sites}

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loader.load_state_dict(state)

    def close(self) -> None:
        self._loader.close()

    def _make(self, epochs: int | None) -> Any:
        c = self._config
        return self._store.batches(
            c.batch, sites=self._sites, shuffle=True, seed=c.seed, epochs=epochs, device=c.device,
            dtype=torch.float32, tokens=c.tokens, split=c.split, drop_last=True, window=c.window,
        )  # fmt: skip


def check_finite(batch: Acts) -> None:
    """NonFiniteError where a row holds NaN or inf: one would turn every weight to NaN."""
    for site, x in batch.items():
        if torch.isfinite(x.sum()):
            continue
        rows = (~torch.isfinite(x).all(1)).nonzero().flatten().tolist()
        if not rows:  # finite numbers whose sum is not
            continue
        where = ""
        if (table := getattr(batch, "rows", None)) is not None:
            where = (
                f", the first of sample {int(table.sample[rows[0]])}, position {int(table.position[rows[0]])}"
            )
        raise NonFiniteError(
            f"{site}: got NaN or inf in {len(rows)} of {len(x):,} rows of a batch{where}, expected finite "
            "activations; `mmxai verify` tells whether the store is damaged, else harvest with another dtype"
        )
