"""Counts and random draws by key, kept in bounded memory while blocks of entries come in."""

from __future__ import annotations

import numpy as np

from mmxai.store.permute import mix

_STEP = np.uint64(0x9E3779B97F4A7C15)


def keyed(values: np.ndarray, key: np.ndarray | int) -> np.ndarray:
    """A hash of integers `[N]` under a key (one, or one each): uint64 `[N]`, equal on every machine."""
    key = mix(np.atleast_1d(np.asarray(key)).astype(np.uint64) * _STEP + _STEP)
    return mix(mix(values.astype(np.uint64) * _STEP + _STEP) ^ key)


class Tally:
    """Counts, and sums of weights, by integer key; keys ascend."""

    def __init__(self) -> None:
        self.keys: np.ndarray = np.zeros(0, np.int64)
        self.counts: np.ndarray = np.zeros(0, np.int64)
        self.sums: np.ndarray = np.zeros(0)

    def add(self, keys: np.ndarray, weights: np.ndarray | None = None) -> None:
        if not len(keys):
            return
        every = np.concatenate([self.keys, keys])
        self.keys, where = np.unique(every, return_inverse=True)
        ones = np.concatenate([self.counts, np.ones(len(keys))])
        added = np.concatenate([self.sums, np.zeros(len(keys)) if weights is None else weights])
        self.counts = np.rint(np.bincount(where, ones)).astype(np.int64)
        self.sums = np.bincount(where, added)


class Draws:
    """At most `each` rows a band, those whose hash is smallest: a sample without replacement."""

    def __init__(self, each: int):
        self._each = each
        self._band, self._rows, self._values = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        self._draw = np.zeros(0, np.uint64)

    def add(
        self, band: np.ndarray, rows: np.ndarray, values: np.ndarray, latent: np.ndarray, seed: int
    ) -> None:
        draw = keyed(rows, keyed(latent, seed))
        band, draw = np.concatenate([self._band, band]), np.concatenate([self._draw, draw])
        rows, values = np.concatenate([self._rows, rows]), np.concatenate([self._values, values])
        order = np.lexsort((draw, band))
        first = np.searchsorted(band[order], band[order], side="left")
        order = order[np.arange(len(order)) - first < self._each]
        self._band, self._draw, self._rows, self._values = (a[order] for a in (band, draw, rows, values))

    def of(self, band: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values of a band, in the order in which they were drawn."""
        own = slice(*np.searchsorted(self._band, [band, band + 1]))
        return self._rows[own], self._values[own]
