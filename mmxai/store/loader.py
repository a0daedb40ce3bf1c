"""Batches of a store, shuffled, split over ranks, prefetched, and resumable to the row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from types import TracebackType
from typing import Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.store.memory import available_bytes
from mmxai.store.prefetch import Prefetcher
from mmxai.store.produce import Producer, Standing
from mmxai.store.sampler import FullOrder, Schedule, Span, WindowOrder
from mmxai.store.select import RowFilter, select_rows
from mmxai.store.transfer import Transfer
from mmxai.store.view import View
from mmxai.types import Batch

STATE_FORMAT = 1
FULL_SHUFFLE_SHARE = 0.5  # of available memory: sites larger than this are shuffled by windows
WINDOW_SHARE = 0.125  # of available memory for one window; two are held
WINDOW_MOST = 1 << 30
BLOCK_BYTES = 4 << 20


def make_loader(
    view: View,
    sites: Sequence[str],
    space: str,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epochs: int | None = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokens: str | Sequence[str] | None = None,
    split: str | None = None,
    splits: Sequence[float] = (0.8, 0.1, 0.1),
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    window: int | str | None = "auto",
    prefetch: int = 2,
    rows: Any = None,
) -> Loader:
    """An iterator over batches of `batch_size` rows of `sites`, all of row space `space`.

    shuffle, seed: a keyed permutation of the rows, another every epoch. epochs: None goes on for ever.
    device: where the activations go (to CUDA through pinned memory, without waiting); rows stay on the CPU.
    dtype: conversion; to float32 it costs nothing extra.
    tokens: token types to keep, or "last": the last row of each sample that is not padding.
    split, splits: "train", "val" or "test" and their shares of the *samples*, drawn by a hash of the sample's
        index: equal for every site and seed, and after the store has grown.
    rows: visit only these logical rows (distinct integers or a mask), in this order unless shuffled.
    rank, world: this reader's slice of one global sequence; no row is lost or read twice. With
        `drop_last=True` every rank gets the same number of batches, all full. Without, the rest of the epoch
        is dealt out evenly, so the last batches may differ by a row, and ranks that get none of fewer than
        `world` rows end a batch early.
    window: how a shuffle goes. None: over all rows at once. A number of rows: by windows, that is, blocks
        of consecutive rows (4 MiB or more) in permuted order, gathered to windows of about so many rows,
        permuted inside. "auto": windows where the sites take more than half of the memory available.
        Windows are read in sequence, one ahead; memory is two windows (each at most 1 GiB and an eighth of
        what is available under "auto"), whatever the store's size. Every rank reads every window.
    prefetch: batches prepared ahead by a thread; 0 prepares them in the caller's. At most `prefetch` + 1
        batches are held beside those of the caller, and their memory is used again.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("world", world, 1), ("prefetch", prefetch, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ArgumentError(f"batches: got {name}={value!r}, expected an integer of at least {least}")
    if not isinstance(rank, int) or not 0 <= rank < world:
        raise ArgumentError(f"batches: got rank={rank!r}, world={world}, expected 0 <= rank < world")
    if epochs is not None and (not isinstance(epochs, int) or epochs < 0):
        raise ArgumentError(f"batches: got epochs={epochs!r}, expected an integer or None")
    if dtype is not None and not dtype.is_floating_point:
        raise ArgumentError(f"batches: got dtype {dtype}, expected a float dtype")
    if not (window is None or window == "auto" or (isinstance(window, int) and window > 0)):
        raise ArgumentError(f"batches: got window={window!r}, expected 'auto', None or a number of rows")
    if isinstance(window, int) and not shuffle:
        raise ArgumentError(f"batches: got window={window} without shuffle=True; windows only shuffle")
    chosen = RowFilter.parse(tokens, split, splits)
    selected = select_rows(view, space, chosen, rows)
    if selected is not None and rows is not None and shuffle:
        selected = np.sort(selected)  # a shuffle depends on which rows there are, not on how they were named
    selection = {
        "tokens": None if chosen.tokens is None else list(chosen.tokens),
        "split": None if split is None else [split, *chosen.splits],
        "rows": None if rows is None or selected is None else _digest(selected),
    }
    schedule = Schedule(
        view.num_rows(space) if selected is None else len(selected), batch_size, rank, world, drop_last
    )
    return Loader(
        view, list(sites), space, selected, schedule,
        identity={
            "format": STATE_FORMAT, "snapshot": view.identity, "sites": list(sites), "shuffle": shuffle,
            "seed": seed if shuffle else None, "selection": selection,
        },
        epochs=epochs, device=device, dtype=dtype, window=window if shuffle else None, prefetch=prefetch,
    )  # fmt: skip


def _digest(rows: np.ndarray) -> str:
    return hashlib.blake2b(rows.data, digest_size=16).hexdigest()


class Loader(Iterator[Batch]):
    """Iterator of `Batch`; made by `Store.batches` or `Site.batches`.

    `len(loader)`: batches left to this rank (not for `epochs=None`). `state_dict()` is JSON; it tells where
    the *global* sequence stands after the last batch returned, so a run resumes exactly, also with another
    batch size or number of ranks. Ends its thread when exhausted, closed, or no longer referenced.
    """

    def __init__(
        self, view: View, sites: list[str], space: str, selected: np.ndarray | None, schedule: Schedule, *,
        identity: dict[str, Any], epochs: int | None, device: torch.device | str | None,
        dtype: torch.dtype | None, window: int | str | None, prefetch: int,
    ):  # fmt: skip
        self._view, self._sites, self._space = view, sites, space
        self._selected, self._schedule = selected, schedule
        self._identity, self._epochs, self._prefetch = identity, epochs, prefetch
        self._tables = [view.site_table(site) for site in sites]
        self._transfer = Transfer(device, dtype, view.buffers)
        self._asked = window
        self._window = self._decide(window)
        self._epoch = self._position = 0
        self._running: Prefetcher[tuple[Standing, Batch]] | None = None

    @property
    def window(self) -> int | None:
        """Rows a window, or None: the whole selection is shuffled at once (or not shuffled)."""
        return self._window

    def _decide(self, window: int | str | None) -> int | None:
        if window != "auto":
            return None if window is None else int(window)
        available = available_bytes()
        if sum(t.nbytes for t in self._tables) <= FULL_SHUFFLE_SHARE * available:
            return None
        row_bytes = sum(t.row_bytes for t in self._tables)
        return max(1, int(min(WINDOW_MOST, WINDOW_SHARE * available)) // row_bytes)

    def __len__(self) -> int:
        if self._epochs is None:
            raise TypeError("a loader with epochs=None has no length")
        if self._epoch >= self._epochs:
            return 0
        return self._schedule.steps(self._position) + (self._epochs - self._epoch - 1) * self._schedule.steps(
            0
        )

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        if self._running is None:
            self._running = Prefetcher(self._produce(), self._prefetch)
        try:
            (self._epoch, self._position), batch = next(self._running)
        except StopIteration:
            if self._epochs is not None:
                self._epoch, self._position = max(self._epoch, self._epochs), 0
            raise
        except BaseException:
            self.close()
            raise
        return self._transfer.deliver(batch)

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, as JSON: `epoch` and global `position` come next."""
        return {**self._identity, "window": self._window, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; ArgumentError where it belongs to another snapshot, order or selection.

        Under `window="auto"` the window of the state is taken over, whatever the memory is today.
        """
        mine = {**self._identity, "window": self._window if self._asked != "auto" else state.get("window")}
        wrong = [
            f"{name}: state has {state.get(name)}, this loader {value}"
            for name, value in mine.items()
            if state.get(name) != value
        ]
        epoch, position, n = state.get("epoch"), state.get("position"), self._schedule.n
        valid = isinstance(epoch, int) and isinstance(position, int) and epoch >= 0 and 0 <= position <= n
        if not valid:
            wrong.append(f"epoch, position: state has {epoch!r}, {position!r}, this loader {n} rows an epoch")
        if wrong:
            raise ArgumentError(
                "loader state: it does not belong to this loader, expected equal: " + "; ".join(wrong)
                + "; make the loader as it was, or begin anew without the state"
            )  # fmt: skip
        self.close()
        self._window, self._epoch, self._position = (
            mine["window"],
            int(state["epoch"]),
            int(state["position"]),
        )

    def close(self) -> None:
        """Stop reading ahead. The loader goes on from where it is if it is used again."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_running", None) is not None:
            self.close()

    def __repr__(self) -> str:
        order = "in order" if not self._identity["shuffle"] else f"shuffled, seed {self._identity['seed']}"
        if self._window is not None:
            order += f", by windows of {self._window:,} rows"
        return (
            f"Loader({', '.join(self._sites)}: {self._schedule.n:,} rows, "
            f"{self._schedule.batch_size:,} a batch, {order}; at epoch {self._epoch}, row {self._position:,})"
        )

    def _produce(self) -> Iterator[tuple[Standing, Batch]]:
        """A generator that does not refer to this loader, so that dropping the loader ends its thread."""
        spans = _spans(self._schedule, self._epoch, self._position, self._epochs)
        first = next(spans, None)
        if first is None:
            return iter(())
        spans = chain([first], spans)
        maker = Producer(self._view, self._space, self._sites, self._tables, self._transfer)
        seed = self._identity["seed"] or 0
        if self._window is None:
            order = FullOrder(self._schedule.n, self._selected, self._identity["shuffle"], seed)
            return maker.full(order, spans)
        # Blocks are whole chunks of every site: chunk sizes are powers of two.
        block = max(t.chunk for t in self._tables)
        while block * max(t.row_bytes for t in self._tables) < BLOCK_BYTES:
            block *= 2
        windows = WindowOrder(self._tables[0], self._selected, block, self._window, seed)
        return maker.windowed(windows, spans, self._epoch, self._position, self._epochs)


def _spans(schedule: Schedule, epoch: int, position: int, epochs: int | None) -> Iterator[Span]:
    for e in count(epoch) if epochs is None else range(epoch, epochs):
        yield from schedule.spans(e, position)
        position = 0
